#pragma once

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

/// Doubles height and width of an image by repeating each pixel, like `torch.nn.functional.interpolate` with
/// `nearest` and the scale 2. The kernel for contiguous float32 images on the CPU gives the same bits as
/// LibTorch, and makes no copies.
/// @param image `[B, C, H, W]`
/// @return `[B, C, 2 H, 2 W]`
at::Tensor upsample_double(const at::Tensor& image);

}  // namespace internal
}  // namespace diffusers
