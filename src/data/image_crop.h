#pragma once

// Resizing, crop and flip of a training image, and the choice of its caption.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/data/image_folder.h>

#include <ATen/ATen.h>

#include "data/transforms.h"

namespace diffusers {
inline namespace internal {

/// Options of a crop.
struct CropOptions {
  int64_t height = 0, width = 0;  ///< size of the result
  bool center_crop = false;
  bool random_flip = false;
  bool resize_to_square = false;  ///< changes the aspect ratio and cuts nothing
  ImageInterpolation mode = ImageInterpolation::kBilinear;
};

/// Resizing, crop and flip of an image.
struct Crop {
  int64_t height = 0, width = 0;  // of the image in the file
  int64_t resized_height = 0, resized_width = 0;
  int64_t top = 0, left = 0;  // in the resized image
  int64_t cut_height = 0, cut_width = 0;
  bool is_flipped = false;
};

/// Resizes an image to the smallest size that covers the crop and keeps its aspect ratio, or to the size of
/// the crop, and draws crop and flip.
/// @param image uint8 `[1, C, H, W]`
/// @param file name of the image, for the message
/// @param crop is set
/// @return uint8 `[1, C, height, width]`
/// @throws FileError if one side is more than 1000 times the other
Tensor crop_image(const Tensor& image, const CropOptions& options, ExampleRandom random,
                  std::string_view file, Crop& crop);

/// Cuts a resized image of the size that `crop` has, and flips it.
Tensor cut_image(const Tensor& resized, const Crop& crop);

/// Returns (top, left) of a crop in the resized and flipped image.
std::pair<int64_t, int64_t> top_left_of(const Crop& crop);

/// Chooses one caption of a sample. It depends only on the seed and the index. With the seed 0 it is the
/// first one.
const std::string& chosen_caption(const std::vector<std::string>& captions, int64_t index,
                                  uint64_t augmentation_seed);

/// Returns `[N, 2]` int64 with two numbers for each crop.
template <class Pair>
Tensor pairs_of(const std::vector<Crop>& crops, const Pair& pair) {
  Tensor pairs = at::empty({static_cast<int64_t>(crops.size()), 2}, at::kLong);
  auto* out = pairs.mutable_data_ptr<int64_t>();
  for (const Crop& crop : crops) {
    const auto [first, second] = pair(crop);
    *out++ = first;
    *out++ = second;
  }
  return pairs;
}

}  // namespace internal
}  // namespace diffusers
