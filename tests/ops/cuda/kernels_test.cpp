// The CUDA kernels against LibTorch, on a device.

#include <limits>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/ops/geglu.h>
#include <diffusers/ops/group_norm.h>

#include <torch/autograd.h>

#include "ops/reference.h"
#include "ops/support.h"
#include "ops/tokens.h"
#include "support/on_cuda.h"

#if defined(DIFFUSERS_WITH_CUDA)
#include "ops/cuda/adamw_tensors.h"
#endif

namespace diffusers {
namespace {

using test::CudaOptionsScope;
using test::exact_options;
using testing::expect_close;
using testing::leaf;
using testing::normal;

struct DeviceNormCase {
  std::vector<int64_t> shape;
  int64_t groups = 1;
};

const std::vector<DeviceNormCase> kDeviceNormCases{
    {{64, 32, 28, 28}, 32}, {{64, 64, 14, 14}, 32},   {{64, 128, 7, 7}, 32},
    {{2, 320, 64, 64}, 32}, {{1, 128, 256, 256}, 32}, {{3, 1280, 8, 8}, 32},
    {{1, 6, 5, 3}, 3},      {{2, 2560, 4, 4}, 32},    {{1, 4, 1, 1}, 4}};

double tolerance_of(at::ScalarType dtype) {
  return dtype == at::kFloat ? 1e-5 : dtype == at::kHalf ? 2e-3 : 1.6e-2;
}

/// y and the gradients of all inputs.
std::vector<at::Tensor> normalized(const DeviceNormCase& test, at::ScalarType dtype, at::MemoryFormat order,
                                   bool silu, bool scaled) {
  manual_seed(7);
  const int64_t channels = test.shape[1];
  const auto input = [&](std::vector<int64_t> shape) { return leaf(normal(shape).to(at::kCUDA), dtype); };
  at::Tensor x = normal(test.shape).to(at::kCUDA).to(dtype).contiguous(order).detach();
  x.set_requires_grad(true);
  const at::Tensor grad = normal(test.shape).to(at::kCUDA).to(dtype);
  std::vector<at::Tensor> inputs{x, input({channels}), input({channels})};
  GroupNormOptions options{.silu = silu};
  if (scaled) {
    inputs.push_back(input({test.shape[0], channels}));
    inputs.push_back(input({test.shape[0], channels}));
    inputs.push_back(input({test.shape[0], channels}));
    options.scale = inputs[3];
    options.shift = inputs[4];
    options.offset = inputs[5];
  }
  const at::Tensor y = group_norm(x, test.groups, inputs[1], inputs[2], options);
  std::vector<at::Tensor> results{y.detach()};
  for (const at::Tensor& gradient : torch::autograd::grad({y}, inputs, {grad})) results.push_back(gradient);
  return results;
}

TEST(OnCuda, GroupNormMatchesLibTorchInBothLayouts) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  for (const DeviceNormCase& test : kDeviceNormCases)
    for (const at::MemoryFormat order : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16})
        for (const bool silu : {true, false})
          for (const bool scaled : {false, true}) {
            SCOPED_TRACE(::testing::PrintToString(test.shape) + (silu ? " silu" : "") +
                         (scaled ? " scaled" : "") + " " + at::toString(dtype));
            const auto run = [&](bool kernels) {
              const CudaOptionsScope scope(exact_options(kernels));
              return normalized(test, dtype, order, silu, scaled);
            };
            const auto expected = run(false);
            const auto actual = run(true);
            const auto again = run(true);
            EXPECT_EQ(actual[0].strides(), expected[0].strides());
            for (std::size_t i = 0; i < expected.size(); ++i) {
              expect_close(actual[i].cpu(), expected[i].cpu(), (i == 0 ? 1 : 4) * tolerance_of(dtype),
                           std::to_string(i).c_str());
              EXPECT_TRUE(at::equal(actual[i], again[i])) << i;
            }
          }
}

TEST(OnCuda, GroupNormOfTokensMatchesLibTorch) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  const at::Tensor x = normal({2, 64, 8, 8}).to(at::kCUDA);
  const at::Tensor weight = normal({64}).to(at::kCUDA);
  const auto run = [&](bool kernels) {
    const CudaOptionsScope scope(exact_options(kernels));
    return group_norm_tokens(x, 32, weight, weight, 1e-6).cpu();
  };
  expect_close(run(true), run(false), 1e-5, "tokens");
}

TEST(OnCuda, GegluMatchesLibTorch) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16})
    for (const int64_t features : {1, 7, 256, 1280}) {
      const at::Tensor x = leaf(normal({3, 50, 2 * features}).to(at::kCUDA), dtype);
      const at::Tensor grad = normal({3, 50, features}).to(at::kCUDA).to(dtype);
      const auto run = [&](bool kernels) {
        const CudaOptionsScope scope(exact_options(kernels));
        const at::Tensor y = geglu(x);
        return std::vector<at::Tensor>{y.detach().cpu(), torch::autograd::grad({y}, {x}, {grad})[0].cpu()};
      };
      const auto expected = run(false);
      const auto actual = run(true);
      for (std::size_t i = 0; i < 2; ++i) expect_close(actual[i], expected[i], tolerance_of(dtype), "geglu");
    }
}

TEST(OnCuda, OptimizerStepMatchesLibTorch) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
#if defined(DIFFUSERS_WITH_CUDA)
  const auto tensors = [](double factor) {
    std::vector<at::Tensor> list;
    // More tensors than one launch takes, of sizes around those of a chunk.
    for (int64_t i = 0; i < 2 * cuda::kMostTensors + 3; ++i)
      list.push_back((normal({i % 100 == 0 ? cuda::kChunk + i : 1 + i % 70}) * factor).to(at::kCUDA));
    return list;
  };
  const auto clones = [](const std::vector<at::Tensor>& list) {
    std::vector<at::Tensor> copies;
    for (const at::Tensor& tensor : list) copies.push_back(tensor.clone());
    return copies;
  };
  manual_seed(9);
  cuda::AdamWTensors actual{tensors(1), tensors(100), tensors(0.01), tensors(0.1), {}, tensors(1)};
  for (at::Tensor& square : actual.exp_avg_sqs) square = square.square();
  for (std::size_t i = 0; i < actual.params.size(); ++i)
    actual.steps.push_back(at::full({}, static_cast<double>(i % 5), actual.params[0].options()));
  cuda::AdamWTensors expected{clones(actual.params),      clones(actual.grads), clones(actual.exp_avgs),
                              clones(actual.exp_avg_sqs), clones(actual.steps), clones(actual.averages)};
  const at::Tensor scale = at::full({1}, 8.0, actual.params[0].options());
  const at::Tensor outcome = cuda::run_gradient_norm(actual.grads, scale, 1.0);

  std::vector<at::Tensor> flat;
  for (const at::Tensor& grad : expected.grads) flat.push_back(grad.to(at::kDouble) / 8);
  const double norm = at::linalg_vector_norm(at::cat(flat)).item<double>();
  EXPECT_NEAR(outcome[0].item<double>(), norm, 1e-5 * norm);
  EXPECT_EQ(outcome[1].item<double>(), 0);
  EXPECT_NEAR(outcome[2].item<double>(), 1 / (8 * norm), 1e-5 / (8 * norm));

  const cuda::AdamWOptions options{1e-2, 0.95, 0.999, 1e-8, 0.01, true, 0.001F};
  cuda::run_adamw(actual, options, {}, outcome, at::zeros({1}, scale.options()));
  at::_foreach_mul_(expected.grads, outcome[2]);
  at::_foreach_add_(expected.steps, 1);
  at::_fused_adamw_(expected.params, expected.grads, expected.exp_avgs, expected.exp_avg_sqs, {},
                    expected.steps, 1e-2, 0.95, 0.999, 0.01, 1e-8, false, false);
  at::_foreach_lerp_(expected.averages, expected.params, 0.001);
  for (std::size_t i = 0; i < actual.params.size(); ++i) {
    expect_close(actual.params[i], expected.params[i], 1e-6, "parameter");
    expect_close(actual.exp_avg_sqs[i], expected.exp_avg_sqs[i], 1e-5, "exp_avg_sq");
    expect_close(actual.averages[i], expected.averages[i], 1e-6, "average");
    EXPECT_TRUE(at::equal(actual.steps[i], expected.steps[i]));
  }

  // A skipped step moves the averages alone, whatever the gradients are.
  actual.grads[3].fill_(std::numeric_limits<float>::infinity());
  const at::Tensor bad = cuda::run_gradient_norm(actual.grads, scale, 1.0);
  EXPECT_EQ(bad[1].item<double>(), 1);
  const auto before = clones(actual.params);
  cuda::run_adamw(actual, options, at::full({}, 0.5, scale.options().dtype(at::kDouble)), bad,
                  at::ones({1}, scale.options()));
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(at::equal(actual.params[i], before[i]));
    EXPECT_TRUE(at::equal(actual.steps[i], expected.steps[i]));
  }
#else
  GTEST_SKIP() << "needs a build with DIFFUSERS_WITH_CUDA";
#endif
}

}  // namespace
}  // namespace diffusers
