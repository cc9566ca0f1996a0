#pragma once

#include <cstdint>

#include <diffusers/ops/conv2d.h>

#include <ATen/core/Tensor.h>

#include "ops/cpu/winograd.h"

namespace diffusers {
inline namespace internal {

/// Returns the mode that a value of DIFFUSERS_WINOGRAD means; null is the absent variable.
/// Throws ConfigError if the value is none of 0, 1 and force.
WinogradMode parse_winograd_mode(const char* value);

/// A result of a convolution: its output, or one of its gradients.
enum class ConvolutionPass { kOutput, kInputGradient, kWeightGradient };

/// Returns true if the Winograd kernel computes a pass of the convolution of input `[B, C, H, W]` with weight
/// `[K, C, 3, 3]`. The choice depends only on the sizes, the mode, the kernel and the number of threads.
bool uses_winograd(ConvolutionPass pass, WinogradMode mode, const cpu::WinogradKernel& kernel,
                   at::IntArrayRef input, at::IntArrayRef weight, int64_t threads);

}  // namespace internal
}  // namespace diffusers
