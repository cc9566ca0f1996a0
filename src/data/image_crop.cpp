#include "data/image_crop.h"

#include <algorithm>
#include <cmath>

#include "core/require.h"
#include "data/resample.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Arbitrary number that makes the choice of a caption independent of the crop.
constexpr uint64_t kCaptionStream = 0x63617074696f6e;

/// Returns Python's int(round(x / 2)), which rounds halves to even.
int64_t rounded_half(int64_t value) {
  return static_cast<int64_t>(std::nearbyint(static_cast<double>(value) / 2.0));
}

}  // namespace

Tensor crop_image(const Tensor& image, const CropOptions& options, ExampleRandom random,
                  std::string_view file, Crop& crop) {
  crop.height = image.size(2);
  crop.width = image.size(3);
  require<FileError>(std::max(crop.height, crop.width) / std::min(crop.height, crop.width) <= 1000,
                     "{}: {} x {} pixels, too long and narrow to cut a square from", file, crop.width,
                     crop.height);
  crop.cut_height = options.height;
  crop.cut_width = options.width;
  const Tensor resized = options.resize_to_square
                             ? resize_with(image, options.height, options.width, options.mode)
                             : resize_to_cover(image, options.height, options.width, options.mode);
  crop.resized_height = resized.size(2);
  crop.resized_width = resized.size(3);
  const int64_t spare_rows = crop.resized_height - options.height;
  const int64_t spare_columns = crop.resized_width - options.width;
  crop.top = options.center_crop ? rounded_half(spare_rows) : random.below(spare_rows + 1);
  crop.left = options.center_crop ? rounded_half(spare_columns) : random.below(spare_columns + 1);
  crop.is_flipped = options.random_flip && random.coin();
  return cut_image(resized, crop);
}

Tensor cut_image(const Tensor& resized, const Crop& crop) {
  const Tensor part = resized.narrow(2, crop.top, crop.cut_height).narrow(3, crop.left, crop.cut_width);
  return crop.is_flipped ? part.flip({3}) : part;
}

std::pair<int64_t, int64_t> top_left_of(const Crop& crop) {
  // In the flipped image, the left edge is the right edge of the crop.
  return {crop.top, crop.is_flipped ? crop.resized_width - crop.cut_width - crop.left : crop.left};
}

const std::string& chosen_caption(const std::vector<std::string>& captions, int64_t index,
                                  uint64_t augmentation_seed) {
  if (captions.size() == 1 || augmentation_seed == 0) return captions.front();
  ExampleRandom random(ExampleRandom::mix(augmentation_seed) ^ kCaptionStream, index);
  return captions[static_cast<std::size_t>(random.below(static_cast<int64_t>(captions.size())))];
}

}  // namespace internal
}  // namespace diffusers
