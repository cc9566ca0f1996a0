// Compares the fused CPU operations with compositions of LibTorch operations, forward and backward, in
// interleaved rounds of one run. It prints medians, minima and their ratio, of CPU time with one thread and
// of wall time with more. Convolutions use the Winograd kernels for every size. "adamw" is an optimizer step
// with clipping and EMA. Usage: ops_benchmark [rounds] [threads] [part of the names]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/ops/attention.h>
#include <diffusers/ops/conv2d.h>
#include <diffusers/ops/fused.h>
#include <diffusers/ops/geglu.h>
#include <diffusers/ops/group_norm.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/autograd.h>

#include "ops/cpu/adamw.h"

namespace {

using at::Tensor;

struct Benchmark {
  std::string name;
  std::function<void()> work;
};

/// A case and its passes.
using Benchmarks = std::vector<Benchmark>;

/// Seconds of CPU time with one thread, which other load of the machine disturbs less than wall time; of wall
/// time with several threads.
double now() {
  if (at::get_num_threads() > 1)
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  timespec cpu{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
  return static_cast<double>(cpu.tv_sec) + 1e-9 * static_cast<double>(cpu.tv_nsec);
}

double milliseconds(const std::function<void()>& work) {
  const double start = now();
  work();
  return 1e3 * (now() - start);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void compare(const std::string& name, const std::function<void()>& work, int rounds) {
  std::vector<double> composed, fused;
  for (int round = -1; round < rounds; ++round) {
    diffusers::set_fused_cpu(false);
    const double plain = milliseconds(work);
    diffusers::set_fused_cpu(true);
    const double ours = milliseconds(work);
    if (round < 0) continue;  // the first round is the warm-up
    composed.push_back(plain);
    fused.push_back(ours);
  }
  const double least_composed = *std::min_element(composed.begin(), composed.end());
  const double least_fused = *std::min_element(fused.begin(), fused.end());
  std::printf("%-52s %9.2f %9.2f %7.2f   %9.2f %9.2f %7.2f\n", name.c_str(), median(composed), median(fused),
              median(composed) / median(fused), least_composed, least_fused, least_composed / least_fused);
}

Benchmarks forward_and_backward(const std::string& name, std::function<void()> forward,
                                std::function<void()> both) {
  return {{name + " fwd", std::move(forward)}, {name + " fwd+bwd", std::move(both)}};
}

/// Operations of a group norm benchmark after the norm.
enum class NormKind { kPlain, kSilu, kScaleShiftSilu };

Benchmarks group_norm_benchmark(NormKind kind, int64_t batch, int64_t channels, int64_t side,
                                int64_t groups) {
  const Tensor x = at::randn({batch, channels, side, side}).set_requires_grad(true);
  const Tensor weight = at::ones({channels}).set_requires_grad(true);
  const Tensor bias = at::zeros({channels}).set_requires_grad(true);
  const Tensor grad = at::randn(x.sizes());
  std::vector<Tensor> inputs{x, weight, bias};
  diffusers::GroupNormOptions options{.silu = kind != NormKind::kPlain};
  std::string name = kind == NormKind::kPlain ? "group_norm " : "group_norm_silu ";
  if (kind == NormKind::kScaleShiftSilu) {
    name = "group_norm_scale_shift_silu ";
    options.scale = at::randn({batch, channels}).set_requires_grad(true);
    options.shift = at::randn({batch, channels}).set_requires_grad(true);
    inputs.insert(inputs.end(), {options.scale, options.shift});
  }
  const auto call = [=] { return diffusers::group_norm(x, groups, weight, bias, options); };
  return forward_and_backward(
      name + std::to_string(batch) + "x" + std::to_string(channels) + "x" + std::to_string(side) + "x" +
          std::to_string(side) + " groups " + std::to_string(groups),
      [=] {
        const at::NoGradGuard guard;
        call();
      },
      [=] { torch::autograd::grad({call()}, inputs, {grad}); });
}

Benchmarks attention_benchmark(int64_t batch, int64_t heads, int64_t queries, int64_t keys, int64_t depth) {
  const auto make = [&](int64_t length) { return at::randn({batch, length, heads, depth}).transpose(1, 2); };
  const Tensor query = make(queries).set_requires_grad(true);
  const Tensor key = make(keys).set_requires_grad(true);
  const Tensor value = make(keys).set_requires_grad(true);
  const Tensor grad = make(queries);
  const auto call = [=] { return diffusers::attention(query, key, value); };
  return forward_and_backward(
      "attention batch " + std::to_string(batch) + " heads " + std::to_string(heads) + " L " +
          std::to_string(queries) + " S " + std::to_string(keys) + " D " + std::to_string(depth),
      [=] {
        const at::NoGradGuard guard;
        call();
      },
      [=] {
        torch::autograd::grad({call()}, {query, key, value}, {grad});
      });
}

Benchmarks convolution_benchmark(int64_t in_channels, int64_t out_channels, int64_t side, int64_t batch) {
  const Tensor x = at::randn({batch, in_channels, side, side}).set_requires_grad(true);
  const Tensor weight = at::randn({out_channels, in_channels, 3, 3}).set_requires_grad(true);
  const Tensor bias = at::zeros({out_channels});
  const Tensor grad = at::randn({batch, out_channels, side, side});
  const Tensor y = diffusers::fast_conv2d(x, weight, bias, 1, 1);
  const std::string name = "conv " + std::to_string(in_channels) + "->" + std::to_string(out_channels) +
                           " side " + std::to_string(side) + " batch " + std::to_string(batch);
  const auto gradient = [=](const Tensor& input) {
    return [=] { torch::autograd::grad({y}, {input}, {grad}, /*retain_graph=*/true); };
  };
  return {{name + " fwd",
           [=] {
             const at::NoGradGuard guard;
             diffusers::fast_conv2d(x, weight, bias, 1, 1);
           }},
          {name + " grad of x", gradient(x)},
          {name + " grad of weight", gradient(weight)}};
}

Benchmarks geglu_benchmark(int64_t batch, int64_t length, int64_t features) {
  const Tensor x = at::randn({batch, length, 2 * features}).set_requires_grad(true);
  const Tensor grad = at::randn({batch, length, features});
  const auto call = [=] { return diffusers::geglu(x); };
  return forward_and_backward(
      "geglu batch " + std::to_string(batch) + " L " + std::to_string(length) + " features " +
          std::to_string(features),
      [=] {
        const at::NoGradGuard guard;
        call();
      },
      [=] { torch::autograd::grad({call()}, {x}, {grad}); });
}

/// Returns the gradients, whose sizes are those of the parameters, and the other tensors of AdamW.
diffusers::cpu::AdamWGroup adamw_group(const std::vector<Tensor>& gradients) {
  diffusers::cpu::AdamWGroup group;
  for (const Tensor& grad : gradients) {
    group.params.push_back(at::randn_like(grad));
    group.grads.push_back(grad);
    group.exp_avgs.push_back(at::randn_like(grad) * 0.1);
    group.exp_avg_sqs.push_back(at::rand_like(grad));
    group.steps.push_back(at::zeros({}));
    group.averages.push_back(at::randn_like(grad));
  }
  group.learning_rate = 1e-4;
  group.beta1 = 0.9;
  group.beta2 = 0.999;
  group.eps = 1e-8;
  group.weight_decay = 1e-2;
  return group;
}

/// The norm of the gradients, clipping, AdamW and EMA: in one pass after the norm, or in the passes of
/// LibTorch.
Benchmarks adamw_benchmark(const std::string& label, const std::vector<Tensor>& gradients) {
  const auto group = adamw_group(gradients);
  const auto norm = [=] { return at::linalg_vector_norm(at::stack(at::_foreach_norm(group.grads)), 2); };
  const auto factor = [](const Tensor& total) { return (1.0 / (total + 1e-6)).clamp_max(1.0); };
  const auto step = [=](const Tensor& grad_factor) {
    if (diffusers::fused_cpu()) {
      diffusers::cpu::run_adamw({group}, grad_factor.item<float>(), 1e-3F, /*is_skipped=*/false);
      return;
    }
    at::_foreach_mul_(group.grads, grad_factor);
    at::_foreach_add_(group.steps, 1);
    at::_fused_adamw_(group.params, group.grads, group.exp_avgs, group.exp_avg_sqs, {}, group.steps,
                      group.learning_rate, group.beta1, group.beta2, group.weight_decay, group.eps,
                      /*amsgrad=*/false, /*maximize=*/false, std::optional<Tensor>(),
                      std::optional<Tensor>());
    at::_foreach_lerp_(group.averages, group.params, 1e-3);
  };
  int64_t elements = 0;
  for (const Tensor& grad : gradients) elements += grad.numel();
  const std::string name =
      "adamw " + label + ", " + std::to_string(gradients.size()) + " tensors of " + std::to_string(elements);
  return {{name, [=] { step(factor(norm())); }},
          {name + " without the norm", [=, one = at::ones({})] { step(one); }}};
}

std::vector<Tensor> model_gradients(const diffusers::UNet2DModelConfig& config) {
  const diffusers::UNet2DModel unet(config);
  std::vector<Tensor> gradients;
  for (const Tensor& parameter : unet->parameters()) gradients.push_back(at::randn(parameter.sizes()));
  return gradients;
}

/// The models of the presets "cpu" and "full" of train_mnist, and a large list.
std::vector<Benchmarks> adamw_benchmarks() {
  const auto small = model_gradients({.sample_size = 28,
                                      .in_channels = 1,
                                      .out_channels = 1,
                                      .down_block_types = {"DownBlock2D", "DownBlock2D", "AttnDownBlock2D"},
                                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D", "UpBlock2D"},
                                      .block_out_channels = {16, 32, 64},
                                      .layers_per_block = 1,
                                      .norm_num_groups = 8});
  const auto full =
      model_gradients({.sample_size = 28,
                       .in_channels = 1,
                       .out_channels = 1,
                       .down_block_types = {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"},
                       .up_block_types = {"AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"},
                       .block_out_channels = {32, 64, 64},
                       .layers_per_block = 2});
  std::vector<Tensor> large;
  for (int i = 0; i < 20; ++i) {
    large.push_back(at::randn({320, 320, 3, 3}));
    large.push_back(at::randn({320}));
  }
  return {adamw_benchmark("cpu preset", small), adamw_benchmark("full preset", full),
          adamw_benchmark("large", large)};
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 7;
  at::set_num_threads(argc > 2 ? std::max(1, std::atoi(argv[2])) : 2);
  diffusers::manual_seed(0);
  diffusers::set_winograd(diffusers::WinogradMode::kForced);
  const std::string_view part = argc > 3 ? argv[3] : "";
  const std::vector<Benchmarks> benchmarks{group_norm_benchmark(NormKind::kSilu, 64, 32, 28, 32),
                                           group_norm_benchmark(NormKind::kSilu, 64, 64, 14, 32),
                                           group_norm_benchmark(NormKind::kSilu, 64, 128, 7, 32),
                                           group_norm_benchmark(NormKind::kSilu, 4, 128, 64, 32),
                                           group_norm_benchmark(NormKind::kPlain, 64, 64, 14, 32),
                                           group_norm_benchmark(NormKind::kPlain, 64, 64, 7, 32),
                                           group_norm_benchmark(NormKind::kScaleShiftSilu, 64, 64, 14, 32),
                                           attention_benchmark(64, 8, 196, 196, 8),
                                           attention_benchmark(64, 8, 49, 49, 8),
                                           attention_benchmark(64, 4, 196, 196, 16),
                                           attention_benchmark(16, 4, 256, 256, 32),
                                           attention_benchmark(16, 4, 256, 77, 32),
                                           attention_benchmark(4, 8, 1024, 1024, 8),
                                           attention_benchmark(2, 8, 1024, 1024, 32),
                                           attention_benchmark(1, 1, 196, 196, 8),
                                           geglu_benchmark(1, 4096, 1280),
                                           geglu_benchmark(2, 1024, 2560),
                                           geglu_benchmark(64, 49, 256),
                                           convolution_benchmark(32, 32, 28, 64),
                                           convolution_benchmark(64, 64, 28, 64),
                                           convolution_benchmark(64, 64, 14, 64),
                                           convolution_benchmark(128, 64, 14, 64),
                                           convolution_benchmark(64, 64, 7, 64),
                                           convolution_benchmark(96, 32, 28, 64),
                                           convolution_benchmark(16, 16, 28, 64),
                                           convolution_benchmark(1, 32, 28, 64),
                                           convolution_benchmark(32, 1, 28, 64),
                                           convolution_benchmark(4, 64, 32, 8),
                                           convolution_benchmark(128, 128, 16, 1),
                                           convolution_benchmark(256, 256, 8, 8),
                                           convolution_benchmark(256, 256, 4, 8),
                                           convolution_benchmark(128, 128, 128, 1),
                                           convolution_benchmark(320, 320, 64, 2),
                                           convolution_benchmark(640, 640, 32, 2),
                                           convolution_benchmark(1280, 1280, 16, 2),
                                           convolution_benchmark(1280, 1280, 8, 2)};
  std::printf("%d rounds, %d threads\n%-52s %9s %9s %7s   %9s %9s %7s\n", rounds, at::get_num_threads(),
              "milliseconds", "composed", "fused", "ratio", "least", "least", "ratio");
  for (const auto& list : {benchmarks, adamw_benchmarks()})
    for (const auto& passes : list)
      for (const auto& benchmark : passes)
        if (benchmark.name.find(part) != std::string::npos) compare(benchmark.name, benchmark.work, rounds);
  return 0;
}
