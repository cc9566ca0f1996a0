// Compares the fused CPU operations with compositions of LibTorch operations, forward and backward, in
// interleaved rounds of one run. It prints medians, minima and their ratio. Usage: ops_benchmark [rounds]
// [threads]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/ops/attention.h>
#include <diffusers/ops/fused.h>
#include <diffusers/ops/geglu.h>
#include <diffusers/ops/group_norm_silu.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/autograd.h>

namespace {

using at::Tensor;

struct Benchmark {
  std::string name;
  std::function<void()> forward;
  std::function<void()> forward_backward;
};

double milliseconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
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

Benchmark group_norm_benchmark(int64_t batch, int64_t channels, int64_t side, int64_t groups) {
  const Tensor x = at::randn({batch, channels, side, side}).set_requires_grad(true);
  const Tensor weight = at::ones({channels}).set_requires_grad(true);
  const Tensor bias = at::zeros({channels}).set_requires_grad(true);
  const Tensor grad = at::randn(x.sizes());
  const auto call = [=] { return diffusers::group_norm_silu(x, groups, weight, bias); };
  return {"group_norm_silu " + std::to_string(batch) + "x" + std::to_string(channels) + "x" +
              std::to_string(side) + "x" + std::to_string(side) + " groups " + std::to_string(groups),
          [=] {
            const at::NoGradGuard guard;
            call();
          },
          [=] {
            torch::autograd::grad({call()}, {x, weight, bias}, {grad});
          }};
}

Benchmark attention_benchmark(int64_t batch, int64_t heads, int64_t queries, int64_t keys, int64_t depth) {
  const auto make = [&](int64_t length) { return at::randn({batch, length, heads, depth}).transpose(1, 2); };
  const Tensor query = make(queries).set_requires_grad(true);
  const Tensor key = make(keys).set_requires_grad(true);
  const Tensor value = make(keys).set_requires_grad(true);
  const Tensor grad = make(queries);
  const auto call = [=] { return diffusers::attention(query, key, value); };
  return {"attention batch " + std::to_string(batch) + " heads " + std::to_string(heads) + " L " +
              std::to_string(queries) + " S " + std::to_string(keys) + " D " + std::to_string(depth),
          [=] {
            const at::NoGradGuard guard;
            call();
          },
          [=] {
            torch::autograd::grad({call()}, {query, key, value}, {grad});
          }};
}

Benchmark geglu_benchmark(int64_t batch, int64_t length, int64_t features) {
  const Tensor x = at::randn({batch, length, 2 * features}).set_requires_grad(true);
  const Tensor grad = at::randn({batch, length, features});
  const auto call = [=] { return diffusers::geglu(x); };
  return {"geglu batch " + std::to_string(batch) + " L " + std::to_string(length) + " features " +
              std::to_string(features),
          [=] {
            const at::NoGradGuard guard;
            call();
          },
          [=] { torch::autograd::grad({call()}, {x}, {grad}); }};
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 7;
  at::set_num_threads(argc > 2 ? std::max(1, std::atoi(argv[2])) : 2);
  diffusers::manual_seed(0);
  const std::vector<Benchmark> benchmarks{group_norm_benchmark(64, 32, 28, 32),
                                          group_norm_benchmark(64, 64, 14, 32),
                                          group_norm_benchmark(64, 128, 7, 32),
                                          group_norm_benchmark(4, 128, 64, 32),
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
                                          geglu_benchmark(64, 49, 256)};
  std::printf("%d rounds, %d threads\n%-52s %9s %9s %7s   %9s %9s %7s\n", rounds, at::get_num_threads(),
              "milliseconds", "composed", "fused", "ratio", "least", "least", "ratio");
  for (const auto& benchmark : benchmarks) {
    compare(benchmark.name + " fwd", benchmark.forward, rounds);
    compare(benchmark.name + " fwd+bwd", benchmark.forward_backward, rounds);
  }
  return 0;
}
