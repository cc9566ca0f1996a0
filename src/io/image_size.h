#pragma once

#include <cstdint>

#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {

/// Size of an image as `load_image` returns it: upright, if the file has an EXIF orientation.
struct StoredImageSize {
  int64_t height = 0, width = 0;
};

/// Reads the size of a PNG or JPEG file without decoding its pixels.
/// @throws FileError naming the file if it is neither, or has no size from 1 to 2^31 - 1 on both sides
StoredImageSize read_image_size(const InputFile& file);

}  // namespace internal
}  // namespace diffusers
