#include "ops/winograd_choice.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "core/require.h"
#include "ops/cpu/winograd_convolution.h"

namespace diffusers {
inline namespace internal {
namespace {

// From interleaved measurements of a grid of sizes on an AMD EPYC (Zen 5), with AVX-512 and AVX2 on one
// thread and AVX-512 on two threads. Outside of these limits the kernels were slower than LibTorch for some
// sizes.
constexpr int64_t kLeastSide = 4;
constexpr int64_t kLeastChannels = 8;
constexpr int64_t kLeastBatchOfFewChannels = 4;
constexpr int64_t kLeastTiles = 4;
constexpr int64_t kLeastTilesOfWeightGradient = 16;
constexpr int64_t kLeastOperations = 2'500'000;

}  // namespace

WinogradMode parse_winograd_mode(const char* value) {
  const std::string_view text = value == nullptr ? "1" : value;
  if (text == "0") return WinogradMode::kOff;
  if (text == "force") return WinogradMode::kForced;
  require<ConfigError>(text == "1", "DIFFUSERS_WINOGRAD is \"{}\", expected 0, 1 or force", text);
  return WinogradMode::kAutomatic;
}

bool uses_winograd(ConvolutionPass pass, WinogradMode mode, const cpu::WinogradKernel& kernel,
                   at::IntArrayRef input, at::IntArrayRef weight, int64_t threads) {
  if (mode != WinogradMode::kAutomatic) return mode == WinogradMode::kForced;
  cpu::WinogradShape shape{.tile = cpu::winograd_tile(input[2], input[3]),
                           .lanes = kernel.lanes,
                           .batch = input[0],
                           .in_channels = input[1],
                           .out_channels = weight[0],
                           .height = input[2],
                           .width = input[3]};
  const int64_t operations =
      18 * shape.batch * shape.height * shape.width * shape.in_channels * shape.out_channels;
  if (std::min(shape.height, shape.width) < kLeastSide || operations < kLeastOperations) return false;
  // LibTorch's gradient of an input of few channels is slow, except for a single image.
  const bool few_channels = shape.in_channels < kLeastChannels;
  if (few_channels && (pass != ConvolutionPass::kInputGradient || shape.batch < kLeastBatchOfFewChannels))
    return false;
  const int64_t tiles = shape.rows() * shape.columns();
  if (tiles < (pass == ConvolutionPass::kWeightGradient ? kLeastTilesOfWeightGradient : kLeastTiles))
    return false;
  if (pass == ConvolutionPass::kInputGradient) std::swap(shape.in_channels, shape.out_channels);
  // Idle threads may cost a quarter of the time at most.
  const int64_t items = cpu::winograd_items(shape);
  const int64_t rounds = (items + threads - 1) / threads;
  return 4 * items >= 3 * rounds * threads;
}

}  // namespace internal
}  // namespace diffusers
