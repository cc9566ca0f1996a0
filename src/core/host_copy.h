#pragma once

#include <diffusers/core/tensor_map.h>

namespace diffusers {
inline namespace internal {

/// Copies tensors to the CPU. The copies share no memory with the originals and do not require gradients. The
/// function queues all copies and then synchronises with the device once.
TensorMap host_copy(const TensorMap& tensors);

}  // namespace internal
}  // namespace diffusers
