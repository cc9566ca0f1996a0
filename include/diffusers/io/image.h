#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Writes a PNG file, completely or not at all.
/// @param image `[C, H, W]` or `[1, C, H, W]` with C = 1 (gray), 3 (RGB) or 4 (RGBA), of any device; uint8,
///   or floating in [0, 1]. Floating values are clamped and rounded as by diffusers' `numpy_to_pil`; NaN is
///   black.
/// @param path name of the file, which ends with ".png"
/// @throws TensorError for another shape or dtype; FileError for another ending, or if the file cannot be
///   written
void save_image(const at::Tensor& image, const std::filesystem::path& path);

/// Encodes an image as PNG.
/// @param image as for `save_image`
/// @return the bytes of the file that `save_image` writes
/// @throws TensorError for another shape or dtype
std::string encode_png(const at::Tensor& image);

/// Options of `make_grid` and `save_image_grid`.
struct ImageGridOptions {
  /// Images in a row. A batch of fewer images makes fewer columns.
  int64_t columns = 8;
  /// Pixels around and between the images.
  int64_t padding = 2;
  /// Gray value of the padding in [0, 1].
  double pad_value = 0.0;
};

/// Arranges the images of a batch row by row in one picture, as torchvision's `make_grid` does.
/// @param images `[B, C, H, W]` or `[C, H, W]`, uint8 or floating in [0, 1]
/// @return `[C, rows * (H + padding) + padding, columns * (W + padding) + padding]`, of the dtype and device
///   of `images`
/// @throws TensorError for another shape or dtype; ConfigError for an option out of range
at::Tensor make_grid(const at::Tensor& images, const ImageGridOptions& options = {});

/// Writes `make_grid(images, options)` as a PNG file, completely or not at all.
/// @param images `[B, C, H, W]` or `[C, H, W]`, uint8 or floating in [0, 1]
/// @param path name of the file, which ends with ".png"
/// @throws TensorError, ConfigError, FileError as `make_grid` and `save_image`
void save_image_grid(const at::Tensor& images, const std::filesystem::path& path,
                     const ImageGridOptions& options = {});

/// Options of `load_image`.
struct LoadImageOptions {
  /// Number of channels of the result. 0 keeps the file's: 1 for gray, 3 for colour. 1 and 3 convert, with
  /// Pillow's weights for gray.
  int64_t channels = 0;
  /// Rotates and flips the image as its EXIF tag says, as Pillow's `ImageOps.exif_transpose` does.
  bool exif_transpose = false;
};

/// Reads a PNG or JPEG file; the first bytes tell which. The values are those of Pillow's `Image.open` and
/// `convert`. One case differs: of 16-bit gray the high byte is taken, where Pillow clips at 255.
/// Transparency is dropped.
/// @return uint8 `[C, H, W]`
/// @throws FileError naming the file if it is no complete PNG or JPEG image, or has more than 178,956,970
///   pixels; ConfigError if `channels` is not 0, 1 or 3
at::Tensor load_image(const std::filesystem::path& path, const LoadImageOptions& options = {});

}  // namespace diffusers
