#include "data/transforms.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/resample.h"

namespace diffusers {
inline namespace internal {

Tensor resize_to_cover(const Tensor& images, int64_t height, int64_t width, ImageInterpolation mode) {
  const int64_t rows = images.size(2);
  const int64_t columns = images.size(3);
  // The side that is shorter relative to the target gets the size of the target.
  return rows * width <= columns * height ? resize_with(images, height, height * columns / rows, mode)
                                          : resize_with(images, width * rows / columns, width, mode);
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
