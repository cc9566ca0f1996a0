#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Reads an IDX file (the format of MNIST), raw or gzip-compressed, told apart by its first bytes.
/// @return a tensor of the file's shape and type: uint8, int8, int16, int32, float32 or float64; uint8 `[N,
/// 28, 28]` for the
///         images of MNIST
/// @throws FileError naming the file and the numbers, for a wrong magic number, a torn file, bytes behind the
/// data or sizes
///         that the file cannot hold
at::Tensor read_idx(const std::string& path);

}  // namespace diffusers
