#include "ops/cpu/winograd_convolution.h"

#include <array>
#include <limits>
#include <tuple>
#include <vector>

#include <diffusers/core/random.h>

#include "ops/support.h"

namespace diffusers {
namespace {

using testing::expect_close;
using testing::normal;
using testing::Threads;

struct WinogradCase {
  int64_t batch, in_channels, out_channels, height, width;
};

// Small and odd images, channels that fill no vector, panels of one vector, strips of a part of an image.
const std::vector<WinogradCase> kWinogradCases{
    {1, 1, 1, 1, 1},     {2, 3, 5, 1, 7},     {3, 16, 8, 2, 3},   {1, 17, 33, 33, 17}, {5, 32, 48, 7, 7},
    {4, 64, 64, 14, 14}, {2, 40, 24, 13, 29}, {1, 8, 130, 5, 61}, {1, 20, 16, 70, 90}, {2, 136, 160, 9, 11}};

struct WinogradInputs {
  at::Tensor input, weight, bias, grad;
};

WinogradInputs make_winograd_inputs(const WinogradCase& test) {
  manual_seed(3);
  return {normal({test.batch, test.in_channels, test.height, test.width}),
          normal({test.out_channels, test.in_channels, 3, 3}), normal({test.out_channels}),
          normal({test.batch, test.out_channels, test.height, test.width})};
}

/// Output, gradient of the input and gradient of the weight in float64.
std::array<at::Tensor, 3> exact_convolution(const WinogradInputs& inputs) {
  const auto exact = [](const at::Tensor& tensor) { return tensor.to(at::kDouble); };
  const std::array<int64_t, 2> one{1, 1};
  const std::array<int64_t, 2> zero{0, 0};
  const auto gradients =
      at::convolution_backward(exact(inputs.grad), exact(inputs.input), exact(inputs.weight), std::nullopt,
                               one, one, one, false, zero, 1, {true, true, false});
  return {at::conv2d(exact(inputs.input), exact(inputs.weight), exact(inputs.bias), 1, 1),
          std::get<0>(gradients), std::get<1>(gradients)};
}

std::array<at::Tensor, 3> winograd_results(const cpu::WinogradKernel& kernel, int64_t tile,
                                           const WinogradInputs& inputs) {
  return {cpu::winograd_convolution(kernel, tile, inputs.input, inputs.weight, inputs.bias, false),
          cpu::winograd_convolution(kernel, tile, inputs.grad, inputs.weight, {}, true),
          cpu::winograd_weight_gradient(kernel, tile, inputs.input, inputs.grad)};
}

/// Calls run(kernel, tile) for the instruction sets of this machine.
template <class Run>
void for_each_winograd_kernel(const Run& run) {
  if (cpu::winograd_kernel() == nullptr) GTEST_SKIP() << "this machine has no AVX2";
  for (const int64_t lanes : {8, 16}) {
    const auto* kernel = cpu::winograd_kernel(lanes);
    if (kernel->lanes != lanes) continue;
    for (const int64_t tile : {2, 4}) {
      SCOPED_TRACE(::testing::Message() << lanes << " lanes, tiles of " << tile);
      run(*kernel, tile);
    }
  }
}

void expect_exact(const std::array<at::Tensor, 3>& actual, const std::array<at::Tensor, 3>& expected,
                  double tolerance) {
  expect_close(actual[0], expected[0], tolerance, "output");
  expect_close(actual[1], expected[1], tolerance, "gradient of the input");
  expect_close(actual[2], expected[2], tolerance, "gradient of the weight");
}

TEST(WinogradConvolution, MatchesFloat64) {
  for (const auto& test : kWinogradCases) {
    SCOPED_TRACE(::testing::Message() << test.batch << " x " << test.in_channels << " -> "
                                      << test.out_channels << ", " << test.height << " x " << test.width);
    const auto inputs = make_winograd_inputs(test);
    const auto expected = exact_convolution(inputs);
    for_each_winograd_kernel([&](const cpu::WinogradKernel& kernel, int64_t tile) {
      expect_exact(winograd_results(kernel, tile, inputs), expected, tile == 2 ? 2e-6 : 5e-6);
    });
  }
}

TEST(WinogradConvolution, MatchesFloat64WithManyChannels) {
  const auto inputs = make_winograd_inputs({1, 1280, 640, 16, 16});
  const auto expected = exact_convolution(inputs);
  for_each_winograd_kernel([&](const cpu::WinogradKernel& kernel, int64_t tile) {
    expect_exact(winograd_results(kernel, tile, inputs), expected, tile == 2 ? 2e-6 : 5e-6);
  });
}

TEST(WinogradConvolution, SmallChannelsOfALargeImageAreNotLost) {
  // Each output channel has its own scale: an error of another channel would show.
  auto inputs = make_winograd_inputs({1, 20, 16, 70, 90});
  inputs.weight[3] *= 1e-6;
  inputs.bias[3] = 0;
  const auto expected = exact_convolution(inputs);
  for_each_winograd_kernel([&](const cpu::WinogradKernel& kernel, int64_t tile) {
    expect_close(winograd_results(kernel, tile, inputs)[0].select(1, 3), expected[0].select(1, 3), 5e-6,
                 "output of one channel");
  });
}

TEST(WinogradConvolution, NonFiniteInputsReachTheOutput) {
  auto inputs = make_winograd_inputs({1, 16, 16, 8, 8});
  inputs.input[0][5][2][2] = std::numeric_limits<float>::quiet_NaN();
  for_each_winograd_kernel([&](const cpu::WinogradKernel& kernel, int64_t tile) {
    const auto result = winograd_results(kernel, tile, inputs);
    EXPECT_TRUE(result[0].slice(2, 1, 4).slice(3, 1, 4).isnan().all().item<bool>());
    EXPECT_TRUE(result[2].select(1, 5).isnan().all().item<bool>());
  });
}

TEST(WinogradConvolution, RepeatsItsBits) {
  for (const auto& test : {WinogradCase{5, 32, 48, 7, 7}, WinogradCase{2, 136, 160, 9, 11}}) {
    const auto inputs = make_winograd_inputs(test);
    for_each_winograd_kernel([&](const cpu::WinogradKernel& kernel, int64_t tile) {
      std::vector<std::array<at::Tensor, 3>> results;
      for (const int threads : {1, 1, 2, 2}) {
        const Threads guard(threads);
        results.push_back(winograd_results(kernel, tile, inputs));
      }
      for (std::size_t k = 0; k < 3; ++k) {
        EXPECT_TRUE(at::equal(results[0][k], results[1][k]));
        EXPECT_TRUE(at::equal(results[2][k], results[3][k]));
      }
      EXPECT_TRUE(at::equal(results[0][0], results[2][0]));
      EXPECT_TRUE(at::equal(results[0][1], results[2][1]));
    });
  }
}

TEST(WinogradConvolution, TinyImagesHaveSmallTiles) {
  EXPECT_EQ(cpu::winograd_tile(1, 1), 2);
  EXPECT_EQ(cpu::winograd_tile(2, 2), 2);
  EXPECT_EQ(cpu::winograd_tile(4, 4), 4);
  EXPECT_EQ(cpu::winograd_tile(7, 7), 4);
  EXPECT_EQ(cpu::winograd_tile(28, 28), 4);
}

}  // namespace
}  // namespace diffusers
