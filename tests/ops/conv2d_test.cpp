#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/ops/conv2d.h>

#include <ATen/autocast_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/autograd.h>

#include "ops/cpu/winograd.h"
#include "ops/support.h"

namespace diffusers {
namespace {

using testing::expect_close;
using testing::FusedCpu;
using testing::leaf;
using testing::normal;
using testing::Threads;
using testing::Winograd;

struct Conv2dInputs {
  at::Tensor input, weight, bias, grad;
};

Conv2dInputs make_conv2d_inputs(at::IntArrayRef input, int64_t out_channels) {
  manual_seed(5);
  return {normal(input), normal({out_channels, input[1], 3, 3}), normal({out_channels}),
          normal({input[0], out_channels, input[2], input[3]})};
}

struct Conv2dResult {
  at::Tensor y;
  std::vector<at::Tensor> gradients;
};

Conv2dResult run_conv2d(const Conv2dInputs& inputs, at::ScalarType dtype) {
  const at::Tensor input = leaf(inputs.input, dtype);
  const at::Tensor weight = leaf(inputs.weight, dtype);
  const at::Tensor bias = leaf(inputs.bias, dtype);
  const at::Tensor y = fast_conv2d(input, weight, bias, 1, 1);
  return {y.detach(), torch::autograd::grad({y}, {input, weight, bias}, {inputs.grad.to(dtype)})};
}

TEST(FastConv2d, ForcedMatchesFloat64) {
  const Winograd forced(WinogradMode::kForced);
  const std::vector<std::pair<std::vector<int64_t>, int64_t>> cases{{{1, 1, 1, 1}, 1},
                                                                    {{1, 3, 33, 17}, 20},
                                                                    {{4, 32, 14, 14}, 64},
                                                                    {{2, 64, 28, 28}, 16},
                                                                    {{1, 130, 5, 6}, 140}};
  for (const auto& [shape, out_channels] : cases) {
    SCOPED_TRACE(::testing::PrintToString(shape));
    const auto inputs = make_conv2d_inputs(shape, out_channels);
    const auto expected = run_conv2d(inputs, at::kDouble);
    for (const int threads : {1, 2}) {
      const Threads guard(threads);
      const auto actual = run_conv2d(inputs, at::kFloat);
      const auto again = run_conv2d(inputs, at::kFloat);
      expect_close(actual.y, expected.y, 5e-6, "output");
      EXPECT_TRUE(at::equal(actual.y, again.y));
      for (std::size_t k = 0; k < 3; ++k) {
        expect_close(actual.gradients[k], expected.gradients[k], 5e-6, "gradient");
        EXPECT_TRUE(at::equal(actual.gradients[k], again.gradients[k]));
      }
    }
  }
}

TEST(FastConv2d, OffIsLibTorchsConvolution) {
  const auto inputs = make_conv2d_inputs({4, 64, 28, 28}, 64);
  const at::Tensor expected = at::conv2d(inputs.input, inputs.weight, inputs.bias, 1, 1);
  {
    const Winograd off(WinogradMode::kOff);
    EXPECT_TRUE(at::equal(fast_conv2d(inputs.input, inputs.weight, inputs.bias, 1, 1), expected));
  }
  const Winograd forced(WinogradMode::kForced);
  {
    const FusedCpu disabled(false);
    EXPECT_TRUE(at::equal(fast_conv2d(inputs.input, inputs.weight, inputs.bias, 1, 1), expected));
  }
  if (cpu::winograd_kernel() == nullptr) GTEST_SKIP() << "this machine has no AVX2";
  EXPECT_FALSE(at::equal(fast_conv2d(inputs.input, inputs.weight, inputs.bias, 1, 1), expected));
}

TEST(FastConv2d, UnsupportedConvolutionsAreLibTorchs) {
  const Winograd forced(WinogradMode::kForced);
  const auto inputs = make_conv2d_inputs({2, 16, 12, 12}, 16);
  const auto expect_same = [&](const at::Tensor& input, const at::Tensor& weight, int64_t stride,
                               int64_t padding) {
    const at::Tensor actual = fast_conv2d(input, weight, {}, stride, padding);
    const at::Tensor expected = at::conv2d(input, weight, std::nullopt, stride, padding);
    EXPECT_TRUE(at::equal(actual, expected));
    EXPECT_EQ(actual.strides(), expected.strides());
  };
  expect_same(inputs.input, inputs.weight, 2, 1);
  expect_same(inputs.input, inputs.weight, 1, 0);
  expect_same(inputs.input, inputs.weight, 1, 2);
  expect_same(inputs.input, normal({8, 16, 1, 1}), 1, 0);
  expect_same(inputs.input, normal({8, 16, 5, 5}), 1, 1);
  expect_same(inputs.input[0], inputs.weight, 1, 1);
  expect_same(inputs.input.slice(0, 0, 0), inputs.weight, 1, 1);
  expect_same(inputs.input.slice(3, 1, 12), inputs.weight, 1, 1);
  expect_same(inputs.input.contiguous(at::MemoryFormat::ChannelsLast), inputs.weight, 1, 1);
  for (const auto dtype : {at::kDouble, at::kBFloat16})
    expect_same(inputs.input.to(dtype), inputs.weight.to(dtype), 1, 1);
}

TEST(FastConv2d, AutocastIsThatOfLibTorch) {
  const Winograd forced(WinogradMode::kForced);
  const auto inputs = make_conv2d_inputs({2, 16, 12, 12}, 16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::Tensor actual = fast_conv2d(inputs.input, inputs.weight, inputs.bias, 1, 1);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(actual.scalar_type(), at::kBFloat16);
}

TEST(FastConv2d, ComputesOnlyTheGradientsThatAreNeeded) {
  const Winograd forced(WinogradMode::kForced);
  const auto inputs = make_conv2d_inputs({2, 16, 12, 12}, 24);
  const auto expected = run_conv2d(inputs, at::kDouble);
  const at::Tensor bias = leaf(inputs.bias, at::kFloat);
  const at::Tensor y = fast_conv2d(inputs.input, inputs.weight, bias, 1, 1);
  expect_close(torch::autograd::grad({y}, {bias}, {inputs.grad})[0], expected.gradients[2], 1e-6, "bias");

  const at::Tensor weight = leaf(inputs.weight, at::kFloat);
  const at::Tensor no_bias = fast_conv2d(inputs.input, weight, {}, 1, 1);
  expect_close(no_bias.detach() + inputs.bias.view({-1, 1, 1}), expected.y, 5e-6, "output without bias");
  expect_close(torch::autograd::grad({no_bias}, {weight}, {inputs.grad})[0], expected.gradients[1], 5e-6,
               "weight");
}

TEST(FastConv2d, NonContiguousGradientsOfTheOutput) {
  const Winograd forced(WinogradMode::kForced);
  auto inputs = make_conv2d_inputs({2, 16, 12, 12}, 24);
  const auto expected = run_conv2d(inputs, at::kFloat);
  inputs.grad = inputs.grad.contiguous(at::MemoryFormat::ChannelsLast);
  const auto actual = run_conv2d(inputs, at::kFloat);
  for (std::size_t k = 0; k < 2; ++k) EXPECT_TRUE(at::equal(actual.gradients[k], expected.gradients[k]));
}

TEST(FastConv2d, SameResultWithAndWithoutGradients) {
  const Winograd forced(WinogradMode::kForced);
  const auto inputs = make_conv2d_inputs({2, 16, 12, 12}, 24);
  const at::Tensor y = fast_conv2d(leaf(inputs.input, at::kFloat), inputs.weight, inputs.bias, 1, 1);
  EXPECT_TRUE(y.requires_grad());
  EXPECT_TRUE(at::equal(fast_conv2d(inputs.input, inputs.weight, inputs.bias, 1, 1), y));
  const c10::InferenceMode inference;
  EXPECT_TRUE(at::equal(fast_conv2d(inputs.input.clone(), inputs.weight, inputs.bias, 1, 1), y));
}

TEST(FastConv2d, SecondDerivativesMatchFloat64) {
  const Winograd forced(WinogradMode::kForced);
  const auto inputs = make_conv2d_inputs({1, 4, 6, 5}, 3);
  const auto second = [&](at::ScalarType dtype) {
    const at::Tensor input = leaf(inputs.input, dtype);
    const at::Tensor weight = leaf(inputs.weight, dtype);
    const at::Tensor y = fast_conv2d(input, weight, inputs.bias.to(dtype), 1, 1);
    const auto first = torch::autograd::grad({y.square().sum()}, {input, weight}, {}, true, true);
    return torch::autograd::grad({first[0].square().sum() + first[1].square().sum()}, {input, weight});
  };
  const auto actual = second(at::kFloat);
  const auto expected = second(at::kDouble);
  for (std::size_t k = 0; k < 2; ++k) expect_close(actual[k], expected[k], 2e-5, "second derivative");
}

TEST(FastConv2d, ChangedWeightsAreUsedInTheNextCall) {
  const Winograd forced(WinogradMode::kForced);
  const auto inputs = make_conv2d_inputs({1, 16, 8, 8}, 16);
  const at::Tensor before = fast_conv2d(inputs.input, inputs.weight, {}, 1, 1);
  inputs.weight.mul_(2);
  EXPECT_TRUE(at::equal(fast_conv2d(inputs.input, inputs.weight, {}, 1, 1), before * 2));
}

TEST(FastConv2d, RefusesWeightsThatChangedBeforeTheBackwardPass) {
  const Winograd forced(WinogradMode::kForced);
  const auto inputs = make_conv2d_inputs({1, 16, 8, 8}, 16);
  const at::Tensor input = leaf(inputs.input, at::kFloat);
  const at::Tensor y = fast_conv2d(input, inputs.weight, {}, 1, 1);
  inputs.weight.mul_(2);
  EXPECT_THROW(torch::autograd::grad({y.sum()}, {input}), c10::Error);
}

TEST(FastConv2d, RefusesWhatDoesNotFit) {
  const auto inputs = make_conv2d_inputs({2, 16, 12, 12}, 24);
  EXPECT_THROW(fast_conv2d({}, inputs.weight, inputs.bias, 1, 1), TensorError);
  EXPECT_THROW(fast_conv2d(inputs.input[0][0], inputs.weight, inputs.bias, 1, 1), TensorError);
  EXPECT_THROW(fast_conv2d(inputs.input, {}, inputs.bias, 1, 1), TensorError);
  EXPECT_THROW(fast_conv2d(inputs.input, inputs.weight[0], inputs.bias, 1, 1), TensorError);
  EXPECT_THROW(fast_conv2d(inputs.input, normal({24, 15, 3, 3}), inputs.bias, 1, 1), TensorError);
  EXPECT_THROW(fast_conv2d(inputs.input, inputs.weight, normal({23}), 1, 1), TensorError);
  EXPECT_THROW(fast_conv2d(inputs.input, inputs.weight.to(at::kDouble), {}, 1, 1), TensorError);
  EXPECT_THROW(fast_conv2d(inputs.input, inputs.weight, inputs.bias.to(at::kHalf), 1, 1), TensorError);
  EXPECT_THROW(fast_conv2d(inputs.input, inputs.weight, inputs.bias, 0, 1), TensorError);
  EXPECT_THROW(fast_conv2d(inputs.input, inputs.weight, inputs.bias, 1, -1), TensorError);
  EXPECT_THROW(fast_conv2d(normal({1, 16, 2, 2}), inputs.weight, inputs.bias, 1, 0), TensorError);
}

}  // namespace
}  // namespace diffusers
