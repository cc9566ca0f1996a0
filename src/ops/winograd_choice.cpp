#include "ops/winograd_choice.h"

#include <algorithm>

namespace diffusers {
inline namespace internal {

bool uses_winograd(ConvolutionPass pass, WinogradMode mode, const cpu::WinogradKernel& kernel,
                   at::IntArrayRef input, at::IntArrayRef weight, int64_t threads) {
  if (mode != WinogradMode::kAutomatic) return mode == WinogradMode::kForced;
  (void)pass, (void)kernel, (void)threads;
  return input[1] >= 16 && weight[0] >= 16;
}

}  // namespace internal
}  // namespace diffusers
