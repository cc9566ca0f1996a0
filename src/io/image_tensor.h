#pragma once

// Conversions of images to tensors, for `load_image` and the datasets.

#include <cstdint>
#include <string>
#include <string_view>

#include <diffusers/io/image.h>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

/// Decodes the bytes of a file as `load_image` does.
/// @param where path of the file, for error messages
at::Tensor image_from_bytes(std::string_view bytes, const std::string& where,
                            const LoadImageOptions& options);

/// Resizes as torchvision's Resize with an explicit size: bilinear with antialiasing.
/// @param images uint8 `[N, C, H, W]`
at::Tensor resize_pixels(const at::Tensor& images, int64_t height, int64_t width);

/// Converts uint8 to float32 in [0, 1], with the rounding of torchvision's ToTensor.
at::Tensor to_unit(const at::Tensor& images);

/// Converts uint8 to float32 in [-1, 1], with the rounding of ToTensor and Normalize([0.5], [0.5]).
at::Tensor to_signed_unit(const at::Tensor& images);

}  // namespace internal
}  // namespace diffusers
