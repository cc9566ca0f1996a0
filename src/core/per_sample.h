#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// Views one value for each sample so that it broadcasts over the samples.
/// @param values `[B]`, or `[1]` for all samples
/// @param dim number of dimensions of the samples `[B, ...]`
/// @return `[B, 1, 1, ...]` with `dim` dimensions
inline Tensor broadcast_per_sample(const Tensor& values, int64_t dim) {
  std::vector<int64_t> shape(static_cast<std::size_t>(std::max<int64_t>(dim, 1)), 1);
  shape[0] = values.numel();
  return values.view(shape);
}

}  // namespace internal
}  // namespace diffusers
