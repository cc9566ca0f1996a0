#pragma once

// Decodes and encodes PNG and JPEG, on plain bytes. It does not use LibTorch, so that a fuzz target can
// link it alone.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace diffusers {
inline namespace internal {

/// An image of bytes: rows from top to bottom, pixels from left to right, channels interleaved.
struct RawImage {
  int64_t width = 0;
  int64_t height = 0;
  int64_t channels = 0;  ///< 1 or 3; 4 only for encoding
  int orientation = 1;   ///< EXIF tag 274, 1 to 8
  std::vector<uint8_t> pixels;
  std::string warning = {};  ///< harmless irregularity that the decoder found; empty if there is none
};

/// Largest number of pixels. Pillow rejects larger images as decompression bombs.
inline constexpr int64_t kMaxPixels = 178'956'970;
/// Largest file size in bytes. A larger file cannot hold an image within kMaxPixels.
inline constexpr std::size_t kMaxImageFile = std::size_t{1} << 30;

/// @throws FileError naming `where`
RawImage decode_image(std::string_view bytes, std::string_view where);
RawImage decode_png(std::string_view bytes, std::string_view where);
RawImage decode_jpeg(std::string_view bytes, std::string_view where);

std::string encode_png(const RawImage& image, std::string_view where);
/// @throws TensorError naming `where` for 4 channels, or a side above 65500
std::string encode_jpeg(const RawImage& image, std::string_view where);

}  // namespace internal
}  // namespace diffusers
