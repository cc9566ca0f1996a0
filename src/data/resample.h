#pragma once

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/data/image_folder.h>

namespace diffusers {
inline namespace internal {

/// Resizes images as Pillow's `Image.resize`, bit for bit, to a size that is not larger in one direction and
/// smaller in the other. "bilinear" is resized as by torchvision's tensors (`resize_pixels`), which differs
/// from Pillow by one level at most.
/// @param images uint8 `[N, C, H, W]` on the CPU
/// @param height, width size of the result, 1 or more
/// @param mode filter
/// @return uint8 `[N, C, height, width]`
Tensor resize_with(const Tensor& images, int64_t height, int64_t width, ImageInterpolation mode);

}  // namespace internal
}  // namespace diffusers
