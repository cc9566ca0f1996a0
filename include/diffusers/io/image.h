#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/one_or_many.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Writes an image as a PNG or JPEG file. The file is replaced atomically. JPEG files have Pillow's default
/// quality, 75.
/// @param image `[C, H, W]` or `[1, C, H, W]` with C = 1 (gray), 3 (RGB) or, for PNG, 4 (RGBA), on any
/// device;
///   uint8, or floating in [0, 1]. Floating values are clamped and rounded as by diffusers' `numpy_to_pil`;
///   NaN becomes black.
/// @param path path of the file, which must end with ".png", ".jpg" or ".jpeg"
/// @throws TensorError for another shape or dtype; FileError if the path ends otherwise or the file cannot be
///   written
void save_image(const at::Tensor& image, const std::filesystem::path& path);

/// Encodes an image as PNG.
/// @param image as for `save_image`
/// @return the bytes of the file that `save_image` writes
/// @throws TensorError for another shape or dtype
std::string encode_png(const at::Tensor& image);

/// Options of `make_grid` and `save_image_grid`.
struct ImageGridOptions {
  /// Images in a row, 1 or more. A batch of fewer images makes fewer columns.
  int64_t columns = 8;
  /// Pixels around and between the images, 0 or more.
  int64_t padding = 2;
  /// Gray value of the padding in [0, 1].
  double pad_value = 0.0;
};

/// Arranges the images of a batch row by row in one image, as torchvision's `make_grid` does.
/// @param images `[B, C, H, W]` or `[C, H, W]`, uint8 or floating in [0, 1]
/// @param options columns and padding
/// @return `[C, rows * (H + padding) + padding, columns * (W + padding) + padding]`, of the dtype and device
///   of `images`
/// @throws TensorError for another shape or dtype; ConfigError for an option out of range
at::Tensor make_grid(const at::Tensor& images, const ImageGridOptions& options = {});

/// Writes `make_grid(images, options)` as a PNG file. The file is replaced atomically.
/// @param images `[B, C, H, W]` or `[C, H, W]`, uint8 or floating in [0, 1]
/// @param path path of the file, which must end with ".png"
/// @param options columns and padding
/// @throws TensorError, ConfigError, FileError as `make_grid` and `save_image`
void save_image_grid(const at::Tensor& images, const std::filesystem::path& path,
                     const ImageGridOptions& options = {});

/// Type and range of the pixels that `load_image` returns.
enum class PixelRange {
  kByte,   ///< "uint8": 0 to 255, as in the file.
  kUnit,   ///< "unit": float32 in [0, 1], the input of pipelines.
  kSigned  ///< "signed": float32 in [-1, 1], the input of models.
};

/// The strings of the enumerators of PixelRange.
template <>
struct EnumNames<PixelRange> {
  static constexpr std::string_view kKey = "range";
  static constexpr std::array<std::pair<PixelRange, std::string_view>, 3> kTable{
      {{PixelRange::kByte, "uint8"}, {PixelRange::kUnit, "unit"}, {PixelRange::kSigned, "signed"}}};
};

/// Options of `load_image`.
struct LoadImageOptions {
  /// Size of the result: one number for a square, or {height, width}, each 1 to 16384. The image is stretched
  /// to this size by antialiased bilinear interpolation, as by torchvision's `Resize((height, width))`. Empty
  /// keeps the size of the file.
  OneOrMany<int64_t> size = {};
  /// Type and range of the pixels. The default is uint8.
  EnumChoice<PixelRange> range = PixelRange::kByte;
  /// Number of channels. 0 keeps that of the file (1 for gray, 3 for color). 1 converts to gray with Pillow's
  /// weights; 3 converts to RGB.
  int64_t channels = 0;
  /// Rotates and flips the image as its EXIF tag says, as Pillow's `ImageOps.exif_transpose` does.
  bool exif_transpose = false;
};

/// Reads a PNG or JPEG file. The format is detected from the first bytes. The pixels equal those of Pillow's
/// `Image.open` and `convert`, except for 16-bit gray: Pillow clips it at 255, this function takes the high
/// byte, as Pillow does for color. Transparency is dropped.
/// @code
/// Tensor image = load_image("cat.png", {.size = 512, .range = "signed"});  // [3, 512, 512] in [-1, 1]
/// @endcode
/// @param path the file
/// @param options see LoadImageOptions
/// @return `[C, H, W]`, uint8 or float32, contiguous, on the CPU
/// @throws FileError naming the file if it is not a complete PNG or JPEG image or has more than 178,956,970
///         pixels; ConfigError for an option out of range
at::Tensor load_image(const std::filesystem::path& path, const LoadImageOptions& options = {});

}  // namespace diffusers
