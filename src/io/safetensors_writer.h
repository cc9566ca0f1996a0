#pragma once

#include <map>
#include <string>

#include <diffusers/core/tensor_map.h>

#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {

/// Writes the bytes of save_safetensors() to a file that is not committed yet.
/// @throws TensorError, FileError
void write_safetensors(const TensorMap& tensors, AtomicFile& file,
                       const std::map<std::string, std::string>& metadata);

}  // namespace internal
}  // namespace diffusers
