#include <limits>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/ops/geglu.h>

#include <torch/autograd.h>

#include "ops/cpu/kernels.h"
#include "ops/reference.h"
#include "ops/support.h"

namespace diffusers {
namespace {

using testing::expect_close;
using testing::leaf;
using testing::normal;

const std::vector<std::vector<int64_t>> kGegluShapes{{2, 49, 256}, {3, 5, 2, 34}, {7, 2}, {64}, {1, 1, 30}};

struct GegluResult {
  at::Tensor y, grad;
};

template <class Function>
GegluResult run_geglu(const Function& function, const at::Tensor& inputs, const at::Tensor& grad_y,
                      at::ScalarType dtype) {
  const at::Tensor x = leaf(inputs, dtype);
  const at::Tensor y = function(x);
  return {y.detach(), torch::autograd::grad({y}, {x}, {grad_y.to(dtype)})[0]};
}

TEST(Geglu, FusedKernelMatchesFloat64) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  manual_seed(1);
  for (const auto& shape : kGegluShapes) {
    SCOPED_TRACE(::testing::PrintToString(shape));
    const at::Tensor x = 2 * normal(shape);
    const at::Tensor grad_y = normal(x.chunk(2, -1)[0].sizes());
    const auto expected = run_geglu(reference::geglu, x, grad_y, at::kDouble);
    const auto actual = run_geglu(geglu, x, grad_y, at::kFloat);
    // A few float32 rounding errors and the relative error of the kernel's polynomial, 9e-8.
    expect_close(actual.y, expected.y, 5e-7, "y");
    expect_close(actual.grad, expected.grad, 5e-7, "gradient");
  }
}

TEST(Geglu, EachGateIsAsExactAsLibTorch) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  const at::Tensor gate = at::arange(-20.0, 20.0, 1e-3, at::kFloat).unsqueeze(1);
  const at::Tensor x = at::cat({at::ones_like(gate), gate}, 1);
  const at::Tensor ones = at::ones_like(gate);
  const auto expected = run_geglu(reference::geglu, x, ones, at::kDouble);
  const auto largest_error = [&](const at::Tensor& value, const at::Tensor& exact) {
    // Relative to values above 1, absolute below.
    return ((value - exact).abs() / exact.abs().clamp_min(1)).max().item<double>();
  };
  const auto actual = run_geglu(geglu, x, ones, at::kFloat);
  EXPECT_LT(largest_error(actual.y, expected.y), 2e-7);
  EXPECT_LT(largest_error(actual.grad, expected.grad), 4e-7);
}

TEST(Geglu, FusedKernelIsChosenForContiguousFloat32Only) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  const auto node = [](const at::Tensor& x) {
    return geglu(x.detach().set_requires_grad(true)).grad_fn()->name();
  };
  const at::Tensor x = normal({4, 6, 8});
  EXPECT_NE(node(x).find("GegluFunction"), std::string::npos);
  EXPECT_EQ(node(x.to(at::kDouble)), "MulBackward0");
  EXPECT_EQ(node(x.to(at::kBFloat16)), "MulBackward0");
  EXPECT_EQ(node(x.transpose(0, 1)), "MulBackward0");
  const testing::FusedCpu off(false);
  EXPECT_EQ(node(x), "MulBackward0");
}

TEST(Geglu, RepeatsBitForBitWithAnyNumberOfThreads) {
  manual_seed(2);
  const at::Tensor x = normal({4, 196, 512});
  const at::Tensor grad_y = normal({4, 196, 256});
  const auto once = [&](int threads) {
    const testing::Threads scope(threads);
    return run_geglu(geglu, x, grad_y, at::kFloat);
  };
  const auto first = once(2);
  for (const int threads : {2, 1, 3}) {
    const auto again = once(threads);
    EXPECT_TRUE(at::equal(first.y, again.y));
    EXPECT_TRUE(at::equal(first.grad, again.grad));
  }
}

TEST(Geglu, GradientOfTheGradientMatchesFloat64) {
  manual_seed(3);
  const at::Tensor inputs = normal({3, 5, 12});
  const at::Tensor grads = normal({3, 5, 6});
  const auto second = [&](at::ScalarType dtype) {
    const at::Tensor x = leaf(inputs, dtype);
    const at::Tensor grad_y = leaf(grads, dtype);
    const at::Tensor y = geglu(x);
    const auto first = torch::autograd::grad({y}, {x}, {grad_y}, true, true);
    return torch::autograd::grad({first[0].square().sum()}, {x, grad_y});
  };
  const auto expected = second(at::kDouble);
  const auto actual = second(at::kFloat);
  for (std::size_t k = 0; k < expected.size(); ++k)
    expect_close(actual[k], expected[k], 2e-6, "second gradient");
}

TEST(Geglu, OtherLayoutsAndDtypesMatchTheComposition) {
  manual_seed(4);
  const at::Tensor x = normal({4, 6, 16});
  const at::Tensor expected = reference::geglu(x);
  expect_close(geglu(x), expected, 5e-7, "contiguous");
  expect_close(geglu(x.transpose(0, 1)), expected.transpose(0, 1), 5e-7, "transposed");
  for (const auto dtype : {at::kHalf, at::kBFloat16, at::kDouble}) {
    const at::Tensor y = geglu(x.to(dtype));
    EXPECT_EQ(y.scalar_type(), dtype);
    expect_close(y, expected, dtype == at::kDouble ? 5e-7 : 2e-2, "dtype");
  }
  EXPECT_EQ(geglu(at::zeros({0, 8})).sizes(), (at::IntArrayRef{0, 4}));
}

TEST(Geglu, WithoutGradientNothingIsRecorded) {
  const at::Tensor x = normal({2, 8});
  EXPECT_FALSE(geglu(x).requires_grad());
  const at::NoGradGuard guard;
  EXPECT_FALSE(geglu(x.set_requires_grad(true)).requires_grad());
}

TEST(Geglu, NotANumberStaysVisibleAndLargeGatesAreExact) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor x = at::tensor({1.0F, 1.0F, 1.0F, nan, nan, 1e30F, -1e30F, 0.0F}).view({1, 8});
  const auto [y, grad] = run_geglu(geglu, x, at::ones({1, 4}), at::kFloat);
  EXPECT_TRUE(y[0][0].isnan().item<bool>());
  EXPECT_EQ(y[0][1].item<float>(), 1e30F);
  EXPECT_EQ(y[0][2].item<float>(), 0.0F);
  EXPECT_TRUE(y[0][3].isnan().item<bool>());
  EXPECT_TRUE(grad[0][4].isnan().item<bool>());
  EXPECT_EQ(grad[0][5].item<float>(), 1.0F);
  EXPECT_EQ(grad[0][6].item<float>(), 0.0F);
}

TEST(Geglu, RefusesWhatDoesNotFit) {
  EXPECT_THROW(geglu(at::Tensor()), TensorError);
  EXPECT_THROW(geglu(at::scalar_tensor(1.0)), TensorError);
  EXPECT_THROW(geglu(normal({2, 7})), TensorError);
  EXPECT_THROW(geglu(normal({2, 0})), TensorError);
  EXPECT_THROW(geglu(at::ones({2, 8}, at::kLong)), TensorError);
}

}  // namespace
}  // namespace diffusers
