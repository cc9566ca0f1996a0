#include "ops/norm_conv2d.h"

#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/ops/conv2d.h>

#include <torch/autograd.h>

#include "ops/support.h"

namespace diffusers {
namespace {

using testing::expect_close;
using testing::FusedCpu;
using testing::leaf;
using testing::normal;
using testing::Winograd;

constexpr int64_t kNormGroups = 4;

/// x, weight and bias of the norm, offset, weight and bias of the convolution.
std::vector<at::Tensor> norm_conv_inputs(at::IntArrayRef shape, int64_t out_channels) {
  manual_seed(8);
  return {normal(shape),
          normal({shape[1]}),
          normal({shape[1]}),
          normal({shape[0], shape[1]}),
          normal({out_channels, shape[1], 3, 3}),
          normal({out_channels})};
}

std::vector<at::Tensor> leaves(const std::vector<at::Tensor>& tensors, at::ScalarType dtype) {
  std::vector<at::Tensor> copies;
  for (const at::Tensor& tensor : tensors) copies.push_back(leaf(tensor, dtype));
  return copies;
}

GroupNormOptions options_of(const std::vector<at::Tensor>& t) {
  return {.eps = 1e-5, .offset = t[3], .silu = true};
}

at::Tensor in_one(const std::vector<at::Tensor>& t) {
  return group_norm_conv2d(t[0], kNormGroups, t[1], t[2], options_of(t), {t[4], t[5]});
}

at::Tensor in_two(const std::vector<at::Tensor>& t) {
  return fast_conv2d(group_norm(t[0], kNormGroups, t[1], t[2], options_of(t)), t[4], t[5], 1, 1);
}

const std::vector<std::vector<int64_t>> kNormConvShapes{{1, 4, 1, 1}, {2, 8, 5, 7}, {3, 32, 14, 14}};

TEST(GroupNormConv2d, HasTheBitsOfTwoOperations) {
  for (const auto mode : {WinogradMode::kForced, WinogradMode::kAutomatic}) {
    const Winograd guard(mode);
    for (const auto& shape : kNormConvShapes) {
      SCOPED_TRACE(::testing::PrintToString(shape));
      const auto inputs = norm_conv_inputs(shape, 12);
      const auto run = [&](auto operation) {
        const auto given = leaves(inputs, at::kFloat);
        const at::Tensor y = operation(given);
        auto results = torch::autograd::grad({y}, given, {at::ones_like(y) + y.detach()});
        results.push_back(y.detach());
        return results;
      };
      const auto actual = run(in_one);
      const auto expected = run(in_two);
      for (std::size_t k = 0; k < expected.size(); ++k) EXPECT_TRUE(at::equal(actual[k], expected[k])) << k;
      EXPECT_TRUE(at::equal(in_one(inputs), expected.back())) << "without gradients";
    }
  }
}

TEST(GroupNormConv2d, FrozenParametersAndFrozenInputs) {
  const Winograd forced(WinogradMode::kForced);
  const auto inputs = norm_conv_inputs({2, 8, 6, 5}, 12);
  const auto run = [&](auto operation, std::size_t trained) {
    auto given = inputs;
    given[trained] = leaf(inputs[trained], at::kFloat);
    return torch::autograd::grad({operation(given).square().sum()}, {given[trained]})[0];
  };
  for (std::size_t k = 0; k < inputs.size(); ++k) EXPECT_TRUE(at::equal(run(in_one, k), run(in_two, k))) << k;
}

TEST(GroupNormConv2d, ScaleAndShiftWithoutBias) {
  const Winograd forced(WinogradMode::kForced);
  const auto inputs = norm_conv_inputs({2, 8, 6, 5}, 12);
  const GroupNormOptions options{.eps = 1e-5, .scale = inputs[3], .shift = 2 * inputs[3], .silu = false};
  const at::Tensor x = leaf(inputs[0], at::kFloat);
  const at::Tensor actual = torch::autograd::grad(
      {group_norm_conv2d(x, 2, {}, {}, options, {inputs[4], {}}).square().sum()}, {x})[0];
  const at::Tensor expected = torch::autograd::grad(
      {fast_conv2d(group_norm(x, 2, {}, {}, options), inputs[4], {}, 1, 1).square().sum()}, {x})[0];
  EXPECT_TRUE(at::equal(actual, expected));
}

TEST(GroupNormConv2d, SecondDerivativesMatchFloat64) {
  const Winograd forced(WinogradMode::kForced);
  const auto inputs = norm_conv_inputs({1, 8, 4, 3}, 3);
  const auto second = [&](at::ScalarType dtype) {
    const auto given = leaves(inputs, dtype);
    const auto first = torch::autograd::grad({in_one(given).square().sum()}, given, {}, true, true);
    return torch::autograd::grad({first[0].square().sum() + first[4].square().sum()}, given);
  };
  const auto actual = second(at::kFloat);
  const auto expected = second(at::kDouble);
  for (std::size_t k = 0; k < expected.size(); ++k)
    expect_close(actual[k], expected[k], 1e-4, "second derivative");
}

TEST(GroupNormConv2d, OtherTensorsRunInTwoOperations) {
  const auto inputs = norm_conv_inputs({2, 8, 6, 5}, 12);
  auto strided = inputs;
  strided[0] = inputs[0].contiguous(at::MemoryFormat::ChannelsLast);
  EXPECT_TRUE(at::equal(in_one(strided), in_two(strided)));
  auto empty = inputs;
  empty[0] = inputs[0].slice(0, 0, 0);
  empty[3] = inputs[3].slice(0, 0, 0);
  EXPECT_EQ(in_one(empty).sizes(), in_two(empty).sizes());
  const FusedCpu disabled(false);
  EXPECT_TRUE(at::equal(in_one(inputs), in_two(inputs)));
  auto wrong = inputs;
  wrong[4] = normal({12, 7, 3, 3});
  EXPECT_THROW(in_one(wrong), TensorError);
}

}  // namespace
}  // namespace diffusers
