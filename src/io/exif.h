#pragma once

// Reads the EXIF orientation of an image. Header only and without destructors, because libpng and libjpeg
// leave functions by longjmp.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// Reads a little- or big-endian number from `text`; nullopt if it does not fit in the text.
inline std::optional<uint32_t> exif_number(std::string_view text, std::size_t at, std::size_t bytes,
                                           bool is_big) {
  if (at > text.size() || bytes > text.size() - at) return std::nullopt;
  uint32_t value = 0;
  for (std::size_t i = 0; i < bytes; ++i)
    value = value << 8 | static_cast<unsigned char>(text[at + (is_big ? i : bytes - 1 - i)]);
  return value;
}

/// Returns tag 274 of the first image file directory; 1 if there is none.
/// @param tiff the TIFF data: the bytes after "Exif\0\0" in JPEG, or the complete eXIf chunk of PNG
inline int exif_orientation(std::string_view tiff) {
  const bool is_big = tiff.starts_with("MM");
  if (!is_big && !tiff.starts_with("II")) return 1;
  const auto directory = exif_number(tiff, 4, 4, is_big);
  const auto count = directory ? exif_number(tiff, *directory, 2, is_big) : std::nullopt;
  for (std::size_t i = 0; count && i < *count; ++i) {
    const std::size_t entry = std::size_t{*directory} + 2 + 12 * i;
    const auto tag = exif_number(tiff, entry, 2, is_big);
    if (!tag) return 1;
    if (*tag != 274) continue;
    const auto value = exif_number(tiff, entry + 8, 2, is_big);
    return value && *value >= 1 && *value <= 8 ? static_cast<int>(*value) : 1;
  }
  return 1;
}

}  // namespace internal
}  // namespace diffusers
