#pragma once

#include <diffusers/core/tensor_map.h>

namespace diffusers {
inline namespace internal {

/// Copies tensors to the CPU. The copies share no memory with the originals, and none of them requires a
/// gradient. The device is waited for once, after all copies have been queued.
TensorMap host_copy(const TensorMap& tensors);

}  // namespace internal
}  // namespace diffusers
