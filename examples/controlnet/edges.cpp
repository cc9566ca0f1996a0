#include "edges.h"

#include <utility>

#include <ATen/ATen.h>

using namespace diffusers;

namespace {

constexpr double kSharpStep = 4.0;  // Sobel's gradient at a step from 0 to 1

/// Marks the pixels that have a marked pixel at a distance of at most one.
Tensor grown(const Tensor& marks) { return at::max_pool2d(marks, 3, /*stride=*/1, /*padding=*/1); }

Tensor pixel_sums(const Tensor& marks) { return marks.sum({1, 2, 3}, /*keepdim=*/false, at::kDouble); }

/// Returns part / whole for each image, and 0 where the whole is 0.
Tensor share(const Tensor& part, const Tensor& whole) { return part / whole.clamp_min(1); }

}  // namespace

Tensor edge_map(const Tensor& images) {
  const Tensor padded = at::constant_pad_nd((images + 1) / 2, {1, 1, 1, 1});
  const auto shifted = [&](int64_t row, int64_t column) {
    return padded.narrow(2, row, images.size(2)).narrow(3, column, images.size(3));
  };
  const Tensor right = shifted(0, 2) + 2 * shifted(1, 2) + shifted(2, 2);
  const Tensor left = shifted(0, 0) + 2 * shifted(1, 0) + shifted(2, 0);
  const Tensor below = shifted(2, 0) + 2 * shifted(2, 1) + shifted(2, 2);
  const Tensor above = shifted(0, 0) + 2 * shifted(0, 1) + shifted(0, 2);
  const Tensor squared = (right - left).square() + (below - above).square();
  return squared.gt(kSharpStep * kSharpStep / 4).to(images.scalar_type());
}

double edge_f_score(const Tensor& found, const Tensor& wanted) {
  const Tensor found_count = pixel_sums(found);
  const Tensor wanted_count = pixel_sums(wanted);
  const Tensor precision = share(pixel_sums(found * grown(wanted)), found_count);
  const Tensor recall = share(pixel_sums(wanted * grown(found)), wanted_count);
  const Tensor sum = precision + recall;
  const Tensor score = at::where(sum > 0, 2 * precision * recall / sum, at::zeros_like(sum));
  const Tensor is_empty = found_count.eq(0).logical_and(wanted_count.eq(0));
  return at::where(is_empty, at::ones_like(score), score).mean().item<double>();
}

WithEdges::WithEdges(std::shared_ptr<const Dataset> images) : images_(std::move(images)) {}

Batch WithEdges::get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed) const {
  Batch batch = images_->get_batch(indices, augmentation_seed);
  batch.conditioning_images = edge_map(batch.images).expand({-1, 3, -1, -1}).contiguous();
  return batch;
}
