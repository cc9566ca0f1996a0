#pragma once

// Changes between images [B, C, H, W] and their positions as tokens [B, H * W, C]. On the CPU, float32
// tensors use a transposing kernel. The results are contiguous, have the bits of LibTorch's operations, and
// are differentiable any number of times.

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

/// @param image `[B, C, ...]`
/// @return `[B, L, C]`
at::Tensor image_to_tokens(const at::Tensor& image);

/// @param tokens `[B, L, C]`
/// @param sizes sizes of the image, `[B, C, ...]` with L positions
at::Tensor tokens_to_image(const at::Tensor& tokens, at::IntArrayRef sizes);

/// Adds tokens to an image in one pass.
/// @param image `[B, C, ...]`
/// @param tokens `[B, L, C]`
/// @return shape of image
at::Tensor add_tokens(const at::Tensor& image, const at::Tensor& tokens);

/// Computes image_to_tokens(group_norm(x)), with one kernel on the CPU. The arguments are those of
/// `group_norm`.
/// @return `[B, L, C]`
at::Tensor group_norm_tokens(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                             const at::Tensor& bias, double eps);

}  // namespace internal
}  // namespace diffusers
