#include <limits>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/ops/group_norm_silu.h>

#include <torch/autograd.h>
#include <torch/cuda.h>

#include "ops/cpu/kernels.h"
#include "ops/reference.h"
#include "ops/support.h"

namespace diffusers {
namespace {

using testing::expect_close;
using testing::leaf;
using testing::normal;

struct GroupNormCase {
  std::vector<int64_t> shape;
  int64_t num_groups;
  double offset = 0;  // mean of x in standard deviations
};

const std::vector<GroupNormCase> kGroupNormCases{
    {{2, 32, 28, 28}, 32}, {{3, 64, 14, 14}, 8}, {{2, 6, 7, 7}, 3},     {{2, 4, 5}, 2},   {{3, 8, 1, 1}, 2},
    {{1, 5, 3, 1, 11}, 1}, {{2, 4, 17}, 4, 100}, {{1, 2, 128, 128}, 1}, {{4, 16, 8}, 16}, {{1, 3, 4097}, 3}};

struct GroupNormInputs {
  at::Tensor x, weight, bias, grad;
};

GroupNormInputs make_inputs(const GroupNormCase& test) {
  manual_seed(1);
  const int64_t channels = test.shape[1];
  return {normal(test.shape) + test.offset, normal({channels}), normal({channels}), normal(test.shape)};
}

struct GroupNormResult {
  at::Tensor y;
  std::vector<at::Tensor> gradients;
};

template <class Function>
GroupNormResult run(const Function& function, const GroupNormCase& test, const GroupNormInputs& inputs,
                    at::ScalarType dtype) {
  const at::Tensor x = leaf(inputs.x, dtype);
  const at::Tensor weight = leaf(inputs.weight, dtype);
  const at::Tensor bias = leaf(inputs.bias, dtype);
  const at::Tensor y = function(x, test.num_groups, weight, bias, 1e-5);
  return {y.detach(), torch::autograd::grad({y}, {x, weight, bias}, {inputs.grad.to(dtype)})};
}

TEST(GroupNormSilu, FusedKernelMatchesFloat64) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  for (const auto& test : kGroupNormCases) {
    SCOPED_TRACE(::testing::PrintToString(test.shape));
    const auto inputs = make_inputs(test);
    const auto expected = run(reference::group_norm_silu, test, inputs, at::kDouble);
    const auto actual = run(group_norm_silu, test, inputs, at::kFloat);
    // The rounding error of x is relative to its offset.
    const double tolerance = 1e-6 * (2 + test.offset);
    expect_close(actual.y, expected.y, tolerance, "y");
    const char* names[] = {"grad x", "grad weight", "grad bias"};
    for (std::size_t k = 0; k < 3; ++k)
      expect_close(actual.gradients[k], expected.gradients[k], 2 * tolerance, names[k]);
  }
}

TEST(GroupNormSilu, FusedKernelIsChosenForFloat32Only) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  const auto node = [](const at::Tensor& x) {
    const at::Tensor ones = at::ones({x.size(1)}, x.options());
    return group_norm_silu(leaf(x, x.scalar_type()), 2, ones, ones).grad_fn()->name();
  };
  const at::Tensor x = normal({2, 4, 6, 6});
  EXPECT_NE(node(x).find("GroupNormFunction"), std::string::npos);
  EXPECT_NE(node(x.contiguous(at::MemoryFormat::ChannelsLast)).find("GroupNormFunction"), std::string::npos);
  EXPECT_EQ(node(x.to(at::kDouble)), "SiluBackward0");
  EXPECT_EQ(node(x.to(at::kBFloat16)), "SiluBackward0");
  const testing::FusedCpu off(false);
  EXPECT_EQ(node(x), "SiluBackward0");
}

TEST(GroupNormSilu, RepeatsBitForBitWithAnyNumberOfThreads) {
  const GroupNormCase test{{4, 32, 28, 28}, 8};
  const auto inputs = make_inputs(test);
  const auto once = [&](int threads) {
    const testing::Threads scope(threads);
    return run(group_norm_silu, test, inputs, at::kFloat);
  };
  const auto first = once(2);
  for (const int threads : {2, 1, 3}) {
    const auto again = once(threads);
    EXPECT_TRUE(at::equal(first.y, again.y));
    for (std::size_t k = 0; k < 3; ++k) EXPECT_TRUE(at::equal(first.gradients[k], again.gradients[k]));
  }
}

TEST(GroupNormSilu, GradientOfTheGradientMatchesFloat64) {
  const GroupNormCase test{{2, 6, 5, 3}, 3};
  const auto inputs = make_inputs(test);
  const auto second = [&](at::ScalarType dtype) {
    const at::Tensor x = leaf(inputs.x, dtype);
    const at::Tensor weight = leaf(inputs.weight, dtype);
    const at::Tensor bias = leaf(inputs.bias, dtype);
    const at::Tensor grad = leaf(inputs.grad, dtype);
    const at::Tensor y = group_norm_silu(x, test.num_groups, weight, bias, 1e-5);
    const auto first = torch::autograd::grad({y}, {x, weight, bias}, {grad}, true, true);
    const at::Tensor penalty = first[0].square().sum() + first[1].square().sum() + first[2].square().sum();
    return torch::autograd::grad({penalty}, {x, weight, bias, grad});
  };
  const auto expected = second(at::kDouble);
  const auto actual = second(at::kFloat);
  for (std::size_t k = 0; k < expected.size(); ++k)
    expect_close(actual[k], expected[k], 2e-5, "second gradient");
}

TEST(GroupNormSilu, GradientMatchesFiniteDifferences) {
  const GroupNormCase test{{2, 4, 3, 3}, 2};
  const auto inputs = make_inputs(test);
  const auto gradients = run(group_norm_silu, test, inputs, at::kDouble).gradients;
  const at::Tensor values[] = {inputs.x.to(at::kDouble), inputs.weight.to(at::kDouble),
                               inputs.bias.to(at::kDouble)};
  constexpr double kStep = 1e-5;
  for (std::size_t k = 0; k < 3; ++k) {
    for (int64_t i = 0; i < values[k].numel(); ++i) {
      double loss[2];
      for (const int side : {0, 1}) {
        at::Tensor moved[] = {values[0], values[1], values[2]};
        moved[k] = values[k].clone();
        moved[k].view(-1)[i] += side == 1 ? kStep : -kStep;
        loss[side] =
            (group_norm_silu(moved[0], 2, moved[1], moved[2], 1e-5) * inputs.grad).sum().item<double>();
      }
      EXPECT_NEAR((loss[1] - loss[0]) / (2 * kStep), gradients[k].view(-1)[i].item<double>(), 1e-7);
    }
  }
}

TEST(GroupNormSilu, OtherLayoutsAndDtypesMatchTheComposition) {
  manual_seed(2);
  const at::Tensor weight = normal({8});
  const at::Tensor bias = normal({8});
  const at::Tensor x = normal({2, 8, 6, 6});
  const at::Tensor expected = reference::group_norm_silu(x, 4, weight, bias, 1e-5);
  expect_close(group_norm_silu(x.contiguous(at::MemoryFormat::ChannelsLast), 4, weight, bias), expected, 1e-6,
               "NHWC");
  expect_close(group_norm_silu(x.transpose(2, 3), 4, weight, bias), expected.transpose(2, 3), 1e-6,
               "transposed");
  const at::Tensor wide = normal({2, 16, 6, 6});
  expect_close(group_norm_silu(wide.slice(1, 4, 12), 4, weight, bias),
               reference::group_norm_silu(wide.slice(1, 4, 12).contiguous(), 4, weight, bias, 1e-5), 1e-6,
               "slice");
  for (const auto dtype : {at::kHalf, at::kBFloat16, at::kDouble}) {
    const double tolerance = dtype == at::kDouble ? 1e-6 : 2e-2;
    const at::Tensor y = group_norm_silu(x.to(dtype), 4, weight.to(dtype), bias.to(dtype));
    EXPECT_EQ(y.scalar_type(), dtype);
    expect_close(y, expected, tolerance, "dtype");
  }
  const at::Tensor mixed = group_norm_silu(x.to(at::kBFloat16), 4, weight, bias);
  EXPECT_EQ(mixed.scalar_type(), at::kBFloat16);
  expect_close(mixed, expected, 2e-2, "float32 parameters");
}

TEST(GroupNormSilu, AnEmptyBatchGivesZeroGradients) {
  const at::Tensor x = normal({0, 8, 4, 4}).set_requires_grad(true);
  const at::Tensor weight = normal({8}).set_requires_grad(true);
  const at::Tensor bias = normal({8}).set_requires_grad(true);
  const at::Tensor y = group_norm_silu(x, 4, weight, bias);
  EXPECT_EQ(y.sizes(), x.sizes());
  const auto gradients = torch::autograd::grad({y.sum()}, {x, weight, bias});
  EXPECT_EQ(gradients[0].sizes(), x.sizes());
  EXPECT_TRUE(at::equal(gradients[1], at::zeros({8})));
}

TEST(GroupNormSilu, WithoutGradientNothingIsRecorded) {
  const at::Tensor x = normal({2, 8, 4, 4});
  const at::Tensor weight = at::ones({8}).set_requires_grad(true);
  EXPECT_FALSE(group_norm_silu(x, 4, at::ones({8}), at::zeros({8})).requires_grad());
  const at::NoGradGuard guard;
  EXPECT_FALSE(group_norm_silu(x, 4, weight, weight).requires_grad());
}

TEST(GroupNormSilu, NotANumberStaysVisible) {
  at::Tensor x = normal({2, 4, 9});
  x[0][1][8] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor y = group_norm_silu(x, 2, at::ones({4}), at::zeros({4}));
  EXPECT_TRUE(y[0].slice(0, 0, 2).isnan().all().item<bool>());
  EXPECT_FALSE(y[1].isnan().any().item<bool>());
  // Values that saturate the sigmoid are exact.
  const at::Tensor steep = group_norm_silu(normal({1, 2, 64}), 1, at::full({2}, 1e4), at::zeros({2}));
  EXPECT_TRUE(steep.isfinite().all().item<bool>());
}

TEST(GroupNormSilu, CudaKernelMatchesFloat64) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  const bool before = fused_cuda();
  set_fused_cuda(true);
  for (const auto& test : kGroupNormCases) {
    SCOPED_TRACE(::testing::PrintToString(test.shape));
    auto inputs = make_inputs(test);
    const auto expected = run(reference::group_norm_silu, test, inputs, at::kDouble);
    for (at::Tensor* tensor : {&inputs.x, &inputs.weight, &inputs.bias, &inputs.grad})
      *tensor = tensor->cuda();
    for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
      // Half precision cannot represent the case with an offset.
      if (dtype != at::kFloat && test.offset != 0) continue;
      const double tolerance = dtype == at::kFloat  ? 2e-6 * (2 + test.offset)
                               : dtype == at::kHalf ? 1e-2
                                                    : 6e-2;
      const auto actual = run(group_norm_silu, test, inputs, dtype);
      const auto again = run(group_norm_silu, test, inputs, dtype);
      EXPECT_EQ(actual.y.scalar_type(), dtype);
      expect_close(actual.y.cpu(), expected.y, tolerance, "y");
      for (std::size_t k = 0; k < 3; ++k) {
        expect_close(actual.gradients[k].cpu(), expected.gradients[k], 2 * tolerance, "gradient");
        EXPECT_TRUE(at::equal(actual.gradients[k], again.gradients[k]));
      }
    }
  }
  set_fused_cuda(before);
}

TEST(GroupNormSilu, RefusesWhatDoesNotFit) {
  const at::Tensor x = normal({2, 8, 4, 4});
  const at::Tensor ones = at::ones({8});
  EXPECT_THROW(group_norm_silu(at::Tensor(), 4, ones, ones), TensorError);
  EXPECT_THROW(group_norm_silu(x, 0, ones, ones), TensorError);
  EXPECT_THROW(group_norm_silu(x, -1, ones, ones), TensorError);
  EXPECT_THROW(group_norm_silu(x, 3, ones, ones), TensorError);
  EXPECT_THROW(group_norm_silu(x, 4, at::ones({7}), ones), TensorError);
  EXPECT_THROW(group_norm_silu(x, 4, ones, at::Tensor()), TensorError);
  EXPECT_THROW(group_norm_silu(x, 4, ones.to(at::kDouble), ones.to(at::kDouble)), TensorError);
  EXPECT_THROW(group_norm_silu(x, 4, ones, ones.to(at::kHalf)), TensorError);
  EXPECT_THROW(group_norm_silu(x.to(at::kLong), 4, ones, ones), TensorError);
  EXPECT_THROW(group_norm_silu(normal({2, 8}), 4, ones, ones), TensorError);
  EXPECT_THROW(group_norm_silu(x, 4, ones, ones, std::numeric_limits<double>::quiet_NaN()), TensorError);
  EXPECT_THROW(group_norm_silu(normal({2, 0, 4, 4}), 1, at::ones({0}), at::ones({0})), TensorError);
}

}  // namespace
}  // namespace diffusers
