#include "ops/winograd_choice.h"

#include <gtest/gtest.h>

namespace diffusers {
namespace {

bool chosen(WinogradMode mode, at::IntArrayRef input, int64_t out_channels, int64_t threads = 1) {
  cpu::WinogradKernel kernel;
  kernel.lanes = 16;
  return uses_winograd(ConvolutionPass::kOutput, mode, kernel, input, {out_channels, input[1], 3, 3},
                       threads);
}

TEST(WinogradChoice, FollowsTheMode) {
  EXPECT_TRUE(chosen(WinogradMode::kForced, {1, 1, 1, 1}, 1));
  EXPECT_FALSE(chosen(WinogradMode::kOff, {64, 64, 28, 28}, 64));
  EXPECT_TRUE(chosen(WinogradMode::kAutomatic, {64, 64, 28, 28}, 64));
  EXPECT_TRUE(chosen(WinogradMode::kAutomatic, {2, 320, 64, 64}, 320));
  EXPECT_FALSE(chosen(WinogradMode::kAutomatic, {64, 1, 28, 28}, 64));
}

}  // namespace
}  // namespace diffusers
