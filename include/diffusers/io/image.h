#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Writes a PNG file, completely or not at all.
/// @param image `[C, H, W]` or `[1, C, H, W]` with C = 1 (gray), 3 (RGB) or 4 (RGBA), on any device; uint8,
/// or floating in [0, 1],
///        which is clamped and rounded as diffusers' `numpy_to_pil` rounds it; NaN is black
/// @param path ends with ".png"
/// @throws TensorError, FileError
void save_image(const at::Tensor& image, const std::string& path);

/// The bytes of the file that `save_image` writes.
/// @throws TensorError
std::string encode_png(const at::Tensor& image);

struct ImageGridOptions {
  int64_t columns = 8;
  int64_t padding = 2;     ///< pixels around and between the images
  double pad_value = 0.0;  ///< gray value of the padding, in [0, 1]
};

/// One picture of a batch, row by row, as torchvision's `make_grid` lays it out. Fewer images than columns
/// make fewer columns.
/// @param images `[B, C, H, W]` or `[C, H, W]`, uint8 or floating in [0, 1]
/// @return `[C, rows * (H + padding) + padding, columns * (W + padding) + padding]` of the dtype and device
/// of `images`
at::Tensor make_grid(const at::Tensor& images, const ImageGridOptions& options = {});

/// `save_image(make_grid(images, options), path)`
void save_image_grid(const at::Tensor& images, const std::string& path, const ImageGridOptions& options = {});

struct LoadImageOptions {
  /// 0 keeps what the file has (gray 1, colour 3); 1 or 3 converts, with Pillow's weights for gray.
  int64_t channels = 0;
  /// Turns the picture as its EXIF tag says. Pillow does not, unless `ImageOps.exif_transpose` is called.
  bool exif_transpose = false;
};

/// Reads a PNG or JPEG file, told apart by their first bytes. The values are those of Pillow's `Image.open`
/// and `convert`, but for 16-bit gray, where Pillow clips at 255: here, as in colour, the high byte counts.
/// Transparency is dropped.
/// @return uint8 `[C, H, W]`
/// @throws FileError naming the file if it is no complete PNG or JPEG image or has more than 178,956,970
/// pixels
at::Tensor load_image(const std::string& path, const LoadImageOptions& options = {});

}  // namespace diffusers
