#include "data/transforms.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/resample.h"

namespace diffusers {
inline namespace internal {

Tensor resize_shorter_side(const Tensor& images, int64_t resolution, ImageInterpolation mode) {
  const int64_t height = images.size(2);
  const int64_t width = images.size(3);
  const int64_t shorter = std::min(height, width);
  const int64_t longer = resolution * std::max(height, width) / shorter;
  return height <= width ? resize_with(images, resolution, longer, mode)
                         : resize_with(images, longer, resolution, mode);
}

Tensor checked_indices(std::span<const int64_t> indices, int64_t size) {
  for (const int64_t index : indices)
    require<TensorError>(index >= 0 && index < size, "index {} into a dataset of {} samples", index, size);
  Tensor tensor = at::empty({static_cast<int64_t>(indices.size())}, at::kLong);
  std::copy(indices.begin(), indices.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

}  // namespace internal
}  // namespace diffusers
