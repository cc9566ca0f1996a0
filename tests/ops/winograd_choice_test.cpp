#include "ops/winograd_choice.h"

#include <array>
#include <string>
#include <utility>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>

namespace diffusers {
namespace {

struct ChoiceCase {
  std::array<int64_t, 4> input;
  int64_t out_channels;
  int64_t threads = 1;
};

/// Returns the passes that use Winograd: o(utput), i(nput gradient), w(eight gradient).
std::string chosen(WinogradMode mode, const ChoiceCase& test) {
  cpu::WinogradKernel kernel;
  kernel.lanes = 16;
  const std::array<int64_t, 4> weight{test.out_channels, test.input[1], 3, 3};
  std::string passes;
  for (const auto& [pass, name] :
       {std::pair(ConvolutionPass::kOutput, 'o'), std::pair(ConvolutionPass::kInputGradient, 'i'),
        std::pair(ConvolutionPass::kWeightGradient, 'w')})
    if (uses_winograd(pass, mode, kernel, test.input, weight, test.threads)) passes += name;
  return passes;
}

TEST(WinogradChoice, ReadsTheMode) {
  EXPECT_EQ(parse_winograd_mode(nullptr), WinogradMode::kAutomatic);
  EXPECT_EQ(parse_winograd_mode("1"), WinogradMode::kAutomatic);
  EXPECT_EQ(parse_winograd_mode("0"), WinogradMode::kOff);
  EXPECT_EQ(parse_winograd_mode("force"), WinogradMode::kForced);
  EXPECT_THROW(parse_winograd_mode(""), ConfigError);
  EXPECT_THROW(parse_winograd_mode("on"), ConfigError);
}

TEST(WinogradChoice, FollowsTheMode) {
  const ChoiceCase tiny{{1, 1, 1, 1}, 1};
  const ChoiceCase fitting{{64, 64, 28, 28}, 64};
  EXPECT_EQ(chosen(WinogradMode::kForced, tiny), "oiw");
  EXPECT_EQ(chosen(WinogradMode::kOff, fitting), "");
  EXPECT_EQ(chosen(WinogradMode::kAutomatic, tiny), "");
  EXPECT_EQ(chosen(WinogradMode::kAutomatic, fitting), "oiw");
}

TEST(WinogradChoice, FollowsTheSizes) {
  const auto automatic = [](const ChoiceCase& test) { return chosen(WinogradMode::kAutomatic, test); };
  EXPECT_EQ(automatic({{2, 320, 64, 64}, 320}), "oiw");
  EXPECT_EQ(automatic({{2, 1280, 16, 16}, 1280}), "oiw");
  EXPECT_EQ(automatic({{64, 64, 7, 7}, 64}), "oiw");
  EXPECT_EQ(automatic({{64, 32, 28, 28}, 1}), "oiw");
  // few input channels
  EXPECT_EQ(automatic({{64, 1, 28, 28}, 32}), "i");
  EXPECT_EQ(automatic({{1, 4, 32, 32}, 320}), "");
  // few tiles, small images, little work
  EXPECT_EQ(automatic({{1, 320, 8, 8}, 320}), "oi");
  EXPECT_EQ(automatic({{1, 320, 4, 4}, 320}), "");
  EXPECT_EQ(automatic({{64, 320, 3, 3}, 320}), "");
  EXPECT_EQ(automatic({{1, 8, 16, 16}, 8}), "");
}

TEST(WinogradChoice, FollowsTheThreads) {
  const auto automatic = [](const ChoiceCase& test) { return chosen(WinogradMode::kAutomatic, test); };
  EXPECT_EQ(automatic({{2, 320, 64, 64}, 320, 10}), "oiw");
  EXPECT_EQ(automatic({{2, 320, 64, 64}, 320, 16}), "");
  // The number of threads must fit the channels of the result: 320 or 640.
  EXPECT_EQ(automatic({{2, 320, 64, 64}, 640, 20}), "ow");
  EXPECT_EQ(automatic({{1, 64, 28, 28}, 64, 16}), "");
}

}  // namespace
}  // namespace diffusers
