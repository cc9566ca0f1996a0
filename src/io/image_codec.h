#pragma once

// PNG and JPEG to and from plain bytes; knows nothing of LibTorch, so that it can be fuzzed alone.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace diffusers {
inline namespace internal {

/// Rows from top to bottom, pixels from left to right, channels interleaved.
struct RawImage {
  int64_t width = 0;
  int64_t height = 0;
  int64_t channels = 0;  ///< 1, 3; 4 only for encoding
  int orientation = 1;   ///< EXIF tag 274, 1 to 8
  std::vector<uint8_t> pixels;
  std::string warning = {};  ///< what the decoder found odd, but harmless; empty: nothing
};

/// Pillow refuses larger images as decompression bombs.
inline constexpr int64_t kMaxPixels = 178'956'970;
/// Larger files cannot hold an image within the limit.
inline constexpr std::size_t kMaxImageFile = std::size_t{1} << 30;

/// @throws FileError naming `where`
RawImage decode_image(std::string_view bytes, std::string_view where);
RawImage decode_png(std::string_view bytes, std::string_view where);
RawImage decode_jpeg(std::string_view bytes, std::string_view where);

std::string encode_png(const RawImage& image, std::string_view where);

}  // namespace internal
}  // namespace diffusers
