#pragma once

#include <filesystem>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Reads an IDX file (the format of MNIST), raw or gzip-compressed. The compression is detected from the
/// first bytes.
/// @param path the file
/// @return a tensor of the shape and type of the file: uint8, int8, int16, int32, float32 or float64. The
///         images of MNIST are uint8 `[N, 28, 28]`.
/// @throws FileError naming the file and the numbers if the magic number is wrong, the file is truncated, it
///         has bytes after the data, or its sizes exceed the file
at::Tensor read_idx(const std::filesystem::path& path);

}  // namespace diffusers
