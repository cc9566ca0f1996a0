#pragma once

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

/// Concatenates along the channels, as the skip connections of a UNet do. LibTorch's `cat` passes parts of
/// the gradient that are not contiguous, which every operation before it would copy. This function copies the
/// gradient of `x` once. The gradient of `residual` stays a view, because the residual has other users and
/// the sum of their gradients is a new tensor. On other devices than the CPU it is `cat`.
/// @param x `[B, C, ...]`
/// @param residual `[B, D, ...]`
/// @return `[B, C + D, ...]`, with the bits of `cat`
at::Tensor append_channels(const at::Tensor& x, const at::Tensor& residual);

}  // namespace internal
}  // namespace diffusers
