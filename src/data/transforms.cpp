#include "data/transforms.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {

Tensor resize_to(const Tensor& images, int64_t height, int64_t width) {
  if (images.size(2) == height && images.size(3) == width) return images;
  return at::_upsample_bilinear2d_aa(images, {height, width}, /*align_corners=*/false);
}

Tensor resize_shorter_side(const Tensor& images, int64_t resolution) {
  const int64_t height = images.size(2);
  const int64_t width = images.size(3);
  const int64_t shorter = std::min(height, width);
  const int64_t longer = resolution * std::max(height, width) / shorter;
  return height <= width ? resize_to(images, resolution, longer) : resize_to(images, longer, resolution);
}

Tensor to_signed_unit(const Tensor& images) { return images.to(at::kFloat).div_(255).sub_(0.5).div_(0.5); }

Tensor checked_indices(std::span<const int64_t> indices, int64_t size) {
  for (const int64_t index : indices)
    require<TensorError>(index >= 0 && index < size, "index {} into a data set of {} examples", index, size);
  Tensor tensor = at::empty({static_cast<int64_t>(indices.size())}, at::kLong);
  std::copy(indices.begin(), indices.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

}  // namespace diffusers
