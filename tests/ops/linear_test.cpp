#include "ops/linear.h"

#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/ops/conv2d.h>

#include <ATen/autocast_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/autograd.h>

#include "ops/support.h"

namespace diffusers {
namespace {

using testing::expect_close;
using testing::FusedCpu;
using testing::leaf;
using testing::normal;
using testing::Threads;

/// Uses the matrix products of this library for every size.
class ForcedProducts {
 public:
  explicit ForcedProducts(int64_t lanes) { force_matrix_kernel(lanes); }
  ~ForcedProducts() { force_matrix_kernel(kChosenLanes); }
  ForcedProducts(const ForcedProducts&) = delete;
  ForcedProducts& operator=(const ForcedProducts&) = delete;
};

struct LayerInputs {
  at::Tensor input, weight, bias, grad;
};

LayerInputs linear_inputs(std::vector<int64_t> input, int64_t out) {
  manual_seed(5);
  LayerInputs inputs{normal(input), normal({out, input.back()}), normal({out}), {}};
  input.back() = out;
  inputs.grad = normal(input);
  return inputs;
}

LayerInputs pointwise_inputs(at::IntArrayRef input, int64_t out) {
  manual_seed(6);
  return {normal(input), normal({out, input[1], 1, 1}), normal({out}),
          normal({input[0], out, input[2], input[3]})};
}

at::Tensor apply_layer(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias) {
  return weight.dim() == 2 ? fast_linear(input, weight, bias) : fast_conv2d(input, weight, bias, 1, 0);
}

/// The output and the three gradients. LibTorch computes those of float64.
std::vector<at::Tensor> run_layer(const LayerInputs& inputs, at::ScalarType dtype) {
  const at::Tensor input = leaf(inputs.input, dtype);
  const at::Tensor weight = leaf(inputs.weight, dtype);
  const at::Tensor bias = leaf(inputs.bias, dtype);
  const at::Tensor y = apply_layer(input, weight, bias);
  std::vector<at::Tensor> results{y.detach()};
  for (const at::Tensor& gradient :
       torch::autograd::grad({y}, {input, weight, bias}, {inputs.grad.to(dtype)}))
    results.push_back(gradient);
  return results;
}

std::vector<LayerInputs> all_layer_inputs() {
  std::vector<LayerInputs> all{linear_inputs({1, 1}, 1), linear_inputs({5, 7}, 3),
                               linear_inputs({2, 77, 40}, 65), linear_inputs({1, 3, 5, 24}, 130)};
  for (const auto& [shape, out] : std::vector<std::pair<std::vector<int64_t>, int64_t>>{
           {{1, 1, 1, 1}, 1}, {{3, 20, 7, 7}, 5}, {{2, 33, 9, 14}, 40}, {{1, 6, 30, 29}, 14}})
    all.push_back(pointwise_inputs(shape, out));
  return all;
}

TEST(FastLinear, LayersMatchFloat64) {
  if (cpu::matrix_kernel() == nullptr) GTEST_SKIP() << "this machine has no AVX2";
  const char* const names[] = {"output", "gradient of the input", "gradient of the weight",
                               "gradient of the bias"};
  for (const auto& inputs : all_layer_inputs()) {
    SCOPED_TRACE(::testing::PrintToString(inputs.input.sizes().vec()));
    const auto expected = run_layer(inputs, at::kDouble);
    for (const int64_t lanes : {8, 16}) {
      const ForcedProducts forced(lanes);
      for (const int threads : {1, 2}) {
        const Threads guard(threads);
        const auto actual = run_layer(inputs, at::kFloat);
        const auto again = run_layer(inputs, at::kFloat);
        for (std::size_t k = 0; k < 4; ++k) {
          expect_close(actual[k], expected[k], 1e-6, names[k]);
          EXPECT_TRUE(at::equal(actual[k], again[k])) << names[k];
        }
      }
    }
  }
}

TEST(FastLinear, StridedInputsAndGradients) {
  const ForcedProducts forced(16);
  auto inputs = linear_inputs({4, 6, 10}, 8);
  const auto expected = run_layer(inputs, at::kFloat);
  inputs.grad = inputs.grad.transpose(0, 1).contiguous().transpose(0, 1);
  const auto actual = run_layer(inputs, at::kFloat);
  for (std::size_t k = 0; k < 4; ++k) EXPECT_TRUE(at::equal(actual[k], expected[k]));
  const at::Tensor strided = inputs.input.transpose(0, 1).contiguous().transpose(0, 1);
  EXPECT_TRUE(at::equal(fast_linear(strided, inputs.weight, inputs.bias), expected[0]));
}

TEST(FastLinear, ComputesOnlyTheGradientsThatAreNeeded) {
  const ForcedProducts forced(16);
  for (const auto& inputs : {linear_inputs({2, 9, 40}, 24), pointwise_inputs({2, 16, 5, 6}, 24)}) {
    const auto expected = run_layer(inputs, at::kDouble);
    const at::Tensor bias = leaf(inputs.bias, at::kFloat);
    const at::Tensor y = apply_layer(inputs.input, inputs.weight, bias);
    expect_close(torch::autograd::grad({y}, {bias}, {inputs.grad})[0], expected[3], 1e-6, "bias alone");
    const at::Tensor weight = leaf(inputs.weight, at::kFloat);
    const at::Tensor no_bias = apply_layer(inputs.input, weight, {});
    expect_close(torch::autograd::grad({no_bias}, {weight}, {inputs.grad})[0], expected[2], 1e-6,
                 "weight alone");
    const at::Tensor input = leaf(inputs.input, at::kFloat);
    const at::Tensor frozen = apply_layer(input, inputs.weight, inputs.bias);
    expect_close(torch::autograd::grad({frozen}, {input}, {inputs.grad})[0], expected[1], 1e-6,
                 "input alone");
  }
}

TEST(FastLinear, SecondDerivativesMatchFloat64) {
  const ForcedProducts forced(16);
  for (const auto& inputs : {linear_inputs({2, 3, 5}, 4), pointwise_inputs({2, 4, 3, 2}, 3)}) {
    const auto second = [&](at::ScalarType dtype) {
      const at::Tensor input = leaf(inputs.input, dtype);
      const at::Tensor weight = leaf(inputs.weight, dtype);
      const at::Tensor y = apply_layer(input, weight, inputs.bias.to(dtype));
      const auto first = torch::autograd::grad({y.square().sum()}, {input, weight}, {}, true, true);
      return torch::autograd::grad({first[0].square().sum() + first[1].square().sum()}, {input, weight});
    };
    const auto actual = second(at::kFloat);
    const auto expected = second(at::kDouble);
    for (std::size_t k = 0; k < 2; ++k) expect_close(actual[k], expected[k], 2e-6, "second derivative");
  }
}

TEST(FastLinear, SameResultWithAndWithoutGradients) {
  const ForcedProducts forced(16);
  for (const auto& inputs : {linear_inputs({2, 9, 40}, 24), pointwise_inputs({2, 16, 5, 6}, 24)}) {
    const at::Tensor y = apply_layer(leaf(inputs.input, at::kFloat), inputs.weight, inputs.bias);
    EXPECT_TRUE(y.requires_grad());
    EXPECT_TRUE(at::equal(apply_layer(inputs.input, inputs.weight, inputs.bias), y));
    const c10::InferenceMode inference;
    EXPECT_TRUE(at::equal(apply_layer(inputs.input.clone(), inputs.weight, inputs.bias), y));
  }
}

TEST(FastLinear, OtherInputsAreLibTorchs) {
  const ForcedProducts forced(16);
  const auto inputs = linear_inputs({4, 40}, 24);
  const auto expect_same = [](const at::Tensor& input, const at::Tensor& weight) {
    EXPECT_TRUE(at::equal(fast_linear(input, weight, {}), at::linear(input, weight)));
  };
  expect_same(inputs.input[0], inputs.weight);
  expect_same(inputs.input.slice(0, 0, 0), inputs.weight);
  expect_same(inputs.input, inputs.weight.t().contiguous().t());
  for (const auto dtype : {at::kDouble, at::kBFloat16})
    expect_same(inputs.input.to(dtype), inputs.weight.to(dtype));
  const FusedCpu disabled(false);
  expect_same(inputs.input, inputs.weight);
}

TEST(FastLinear, AutocastIsThatOfLibTorch) {
  const ForcedProducts forced(16);
  const auto inputs = linear_inputs({4, 40}, 24);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::Tensor actual = fast_linear(inputs.input, inputs.weight, inputs.bias);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(actual.scalar_type(), at::kBFloat16);
}

TEST(FastLinear, SwitchedOffBeforeTheBackwardPass) {
  const auto inputs = linear_inputs({4, 40}, 24);
  const auto expected = run_layer(inputs, at::kDouble);
  const at::Tensor input = leaf(inputs.input, at::kFloat);
  at::Tensor y;
  {
    const ForcedProducts forced(16);
    y = fast_linear(input, inputs.weight, inputs.bias);
  }
  expect_close(torch::autograd::grad({y}, {input}, {inputs.grad})[0], expected[1], 1e-6, "gradient");
}

TEST(FastLinear, SmallProductsAreLibTorchs) {
  EXPECT_EQ(chosen_matrix_kernel(1000), nullptr);
  const auto* large = chosen_matrix_kernel(int64_t{1} << 30);
  EXPECT_TRUE(large == nullptr || large->lanes == 16);
}

}  // namespace
}  // namespace diffusers
