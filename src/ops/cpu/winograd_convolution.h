#pragma once

// Calls the Winograd kernels with tensors. All tensors are contiguous float32 and not empty.

#include <ATen/core/Tensor.h>

#include "ops/cpu/winograd.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

/// Returns the tile of the fewest multiplications for an image: 4, or 2 for tiny images.
int64_t winograd_tile(int64_t height, int64_t width);

/// Returns the number of parts of a convolution that threads can compute at the same time.
int64_t winograd_items(const WinogradShape& shape);

/// Convolves input `[B, C, H, W]` with weight `[K, C, 3, 3]`. `transposed` computes the gradient of the input
/// instead: input is then the gradient of the output, and weight is `[C, K, 3, 3]`. `bias` may be undefined.
at::Tensor winograd_convolution(const WinogradKernel& kernel, int64_t tile, const at::Tensor& input,
                                const at::Tensor& weight, const at::Tensor& bias, bool transposed);

/// Returns the gradient `[K, C, 3, 3]` of the weight. The order of its sums depends only on the sizes and on
/// the number of threads.
at::Tensor winograd_weight_gradient(const WinogradKernel& kernel, int64_t tile, const at::Tensor& input,
                                    const at::Tensor& grad_output);

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
