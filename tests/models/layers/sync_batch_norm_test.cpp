#include <cstddef>
#include <cstdint>
#include <sstream>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/models/sync_batch_norm.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>

#include "models/joined_threads.h"
#include "models/layers/joined_batch.h"
#include "support/golden.h"

// Groups of processes: the case "gan" of tests/distributed.

namespace diffusers::test {
namespace {

constexpr int64_t kNormChannels = 3;

Tensor normed_images(int64_t count, uint64_t seed = 1) {
  return at::randn({count, kNormChannels, 4, 5}, make_generator(seed), at::kDouble) * 3 + 50;
}

/// A norm in float64 with weights other than 1 and 0.
template <class Norm>
Norm make_norm(const torch::nn::BatchNormOptions& options = torch::nn::BatchNormOptions(kNormChannels)) {
  Norm norm(options);
  const at::NoGradGuard no_grad;
  for (const auto& tensor : norm->named_parameters()) tensor.value().set_data(tensor.value().to(at::kDouble));
  for (Tensor* running : {&norm->running_mean, &norm->running_var})
    if (running->defined()) running->set_data(running->to(at::kDouble));
  if (options.affine()) {
    norm->weight.copy_(at::linspace(0.5, 1.5, kNormChannels));
    norm->bias.copy_(at::linspace(-1, 1, kNormChannels));
  }
  return norm;
}

/// A loss whose gradients differ between the elements.
Tensor weighted_sum(const Tensor& output, const Tensor& factors) { return (output.square() * factors).sum(); }

TEST(SyncBatchNorm2d, OneProcessComputesBatchNorm2d) {
  for (const bool is_training : {true, false}) {
    auto ours = make_norm<SyncBatchNorm2d>();
    auto theirs = make_norm<torch::nn::BatchNorm2d>();
    ours->train(is_training);
    theirs->train(is_training);
    const Tensor x = normed_images(4);
    const Tensor factors = normed_images(4, 2);
    std::vector<Tensor> inputs{x.clone().requires_grad_(), x.clone().requires_grad_()};
    const Tensor output = ours(inputs[0]);
    const Tensor expected = theirs(inputs[1]);
    expect_equal(output, expected);
    weighted_sum(output, factors).backward();
    weighted_sum(expected, factors).backward();
    expect_equal(inputs[0].grad(), inputs[1].grad());
    expect_equal(ours->weight.grad(), theirs->weight.grad());
    expect_equal(ours->running_mean, theirs->running_mean);
    expect_equal(ours->running_var, theirs->running_var);
  }
}

/// Compares processes with these numbers of samples with one process.
void compare_with_one_process(const std::vector<int64_t>& rows, const torch::nn::BatchNormOptions& options) {
  int64_t total = 0;
  for (const int64_t count : rows) total += count;
  const Tensor factors = normed_images(total, 2);
  auto whole = make_norm<torch::nn::BatchNorm2d>(options);
  std::vector<SyncBatchNorm2d> norms;
  std::vector<Tensor> outputs(rows.size()), gradients(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) norms.push_back(make_norm<SyncBatchNorm2d>(options));
  for (const uint64_t seed : {3, 4}) {
    const Tensor x = normed_images(total, seed);
    Tensor input = x.clone().requires_grad_();
    const Tensor expected = whole(input);
    whole->zero_grad();
    weighted_sum(expected, factors).backward();
    run_joined(rows, [&](std::size_t i) {
      int64_t first = 0;
      for (std::size_t j = 0; j < i; ++j) first += rows[j];
      const bool is_stand_in = rows[i] == 0;
      const Tensor own =
          (is_stand_in ? x.narrow(0, 0, 1) : x.narrow(0, first, rows[i])).clone().requires_grad_();
      outputs[i] = norms[i](own);
      norms[i]->zero_grad();
      const Tensor own_factors =
          is_stand_in ? at::zeros_like(own) : factors.narrow(0, first, rows[i]).clone();
      weighted_sum(outputs[i], own_factors).backward();
      gradients[i] = own.grad();
    });
    int64_t first = 0;
    Tensor weight_grad, bias_grad;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const bool is_stand_in = rows[i] == 0;
      const int64_t count = is_stand_in ? 1 : rows[i];
      const int64_t begin = is_stand_in ? 0 : first;
      expect_close(outputs[i], expected.narrow(0, begin, count), 1e-10, 1e-10, "output");
      const Tensor grad = input.grad().narrow(0, begin, count);
      expect_close(gradients[i], is_stand_in ? at::zeros_like(grad) : grad, 1e-8, 1e-8,
                   "gradient of the input");
      expect_close(norms[i]->running_mean, whole->running_mean, 1e-10, 0, "running_mean");
      expect_close(norms[i]->running_var, whole->running_var, 1e-10, 0, "running_var");
      expect_equal(norms[i]->running_mean, norms[0]->running_mean);
      expect_equal(norms[i]->running_var, norms[0]->running_var);
      expect_equal(norms[i]->num_batches_tracked, whole->num_batches_tracked);
      first += rows[i];
      if (!options.affine()) continue;
      weight_grad = weight_grad.defined() ? weight_grad + norms[i]->weight.grad() : norms[i]->weight.grad();
      bias_grad = bias_grad.defined() ? bias_grad + norms[i]->bias.grad() : norms[i]->bias.grad();
    }
    if (!options.affine()) continue;
    expect_close(weight_grad, whole->weight.grad(), 1e-8, 1e-8, "gradient of weight");
    expect_close(bias_grad, whole->bias.grad(), 1e-8, 1e-8, "gradient of bias");
  }
}

TEST(SyncBatchNorm2d, ProcessesComputeTheStatisticsOfTheWholeBatch) {
  const torch::nn::BatchNormOptions plain(kNormChannels);
  compare_with_one_process({2, 2}, plain);
  compare_with_one_process({3, 2, 1}, plain);
  compare_with_one_process({0, 1}, plain);  // the first process has no sample
  compare_with_one_process({2, 1}, torch::nn::BatchNormOptions(kNormChannels).momentum(std::nullopt));
  compare_with_one_process({2, 1}, torch::nn::BatchNormOptions(kNormChannels).affine(false));
}

TEST(SyncBatchNorm2d, BfloatImagesAreNormalisedInFloat) {
  SyncBatchNorm2d norm(kNormChannels);
  run_joined({1}, [&](std::size_t) {
    const Tensor output = norm(normed_images(2).to(at::kBFloat16));
    EXPECT_EQ(output.scalar_type(), at::kBFloat16);
    EXPECT_LT(output.to(at::kFloat).mean().abs().item<double>(), 1e-2);
  });
}

TEST(SyncBatchNorm2d, WrongInputsAreRefused) {
  SyncBatchNorm2d norm(kNormChannels);
  for (const bool is_joined : {false, true}) {
    const auto refuse = [&](const Tensor& input, std::string_view part) {
      expect_throws_with<TensorError>(
          [&] {
            if (!is_joined) {
              norm(input);
            } else {
              run_joined({1}, [&](std::size_t) { norm(input); });
            }
          },
          part);
    };
    refuse(at::zeros({2, 4, 3, 3}), "expected [B, 3, H, W]");
    refuse(at::zeros({2, 3, 3}), "expected [B, 3, H, W]");
    if (is_joined) refuse(at::zeros({1, 3, 1, 1}), "expected more than 1 value in each channel");
  }
  EXPECT_NO_THROW(run_joined({1, 1}, [&](std::size_t i) {
    SyncBatchNorm2d own(kNormChannels);
    own(at::full({1, kNormChannels, 1, 1}, static_cast<double>(i)));
  }));
  run_joined({1}, [&](std::size_t) {
    const Tensor input = at::rand({2, kNormChannels, 3, 3}).requires_grad_();
    const Tensor loss = norm(input).square().sum();
    expect_throws_with<Error>(
        [&] { torch::autograd::grad({loss}, {input}, {}, /*retain_graph=*/true, /*create_graph=*/true); },
        "gradient of a gradient");
  });
}

TEST(SyncBatchNorm2d, OtherBatchNormsAreFound) {
  EXPECT_FALSE(has_local_batch_statistics(*torch::nn::Sequential(SyncBatchNorm2d(3))));
  EXPECT_TRUE(
      has_local_batch_statistics(*torch::nn::Sequential(SyncBatchNorm2d(3), torch::nn::BatchNorm2d(3))));
  EXPECT_FALSE(has_local_batch_statistics(*torch::nn::Sequential()));
  std::ostringstream text;
  text << *SyncBatchNorm2d(3);
  EXPECT_EQ(text.str(), "diffusers::SyncBatchNorm2d(3, eps=1e-05)");
}

TEST(SyncBatchNorm2d, ACopyHasTheWeights) {
  auto norm = make_norm<SyncBatchNorm2d>();
  const auto copy = std::dynamic_pointer_cast<SyncBatchNorm2dImpl>(norm->clone());
  ASSERT_NE(copy, nullptr);
  expect_equal(copy->weight, norm->weight);
}

}  // namespace
}  // namespace diffusers::test
