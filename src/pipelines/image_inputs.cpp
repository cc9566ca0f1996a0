#include "pipelines/image_inputs.h"

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

// Resampling with negative weights goes somewhat beyond [-1, 1]; no image in [-1, 1] goes as far as this.
constexpr double kLargestOvershoot = 2.0;

Tensor resized(const Tensor& images, const ImageSize& size) {
  if (images.size(2) == size.first && images.size(3) == size.second) return images;
  return at::upsample_nearest2d(images, at::IntArrayRef({size.first, size.second}));
}

/// The smallest value; reads the device once.
double checked_minimum(std::string_view name, const Tensor& images) {
  const auto [low, high] = images.aminmax();
  const auto least = low.item<double>();
  const auto largest = high.item<double>();
  require<TensorError>(least >= -kLargestOvershoot && largest <= kLargestOvershoot,
                       "{} has values from {} to {}, expected [0, 1]; divide pixels in [0, 255] by 255", name,
                       least, largest);
  return least;
}

/// `size`, or that of the images, reduced to multiples of the scale.
ImageSize target_size(std::string_view name, const Tensor& images, int64_t scale,
                      std::optional<int64_t> height, std::optional<int64_t> width) {
  const ImageSize size{height.value_or(images.size(2)) / scale * scale,
                       width.value_or(images.size(3)) / scale * scale};
  require<TensorError>(
      images.size(0) > 0 && images.size(1) > 0 && size.first > 0 && size.second > 0 && images.numel() > 0,
      "{} is {}, expected sides of at least {}, the vae's scale", name, describe(images), scale);
  return size;
}

}  // namespace

Tensor image_batch(std::string_view name, const Tensor& image) {
  require<TensorError>(image.defined() && (image.dim() == 3 || image.dim() == 4) && image.is_floating_point(),
                       "{} is {}, expected a floating [B, C, H, W] or [C, H, W] in [0, 1]; convert bytes "
                       "with {}.to(torch::kFloat) / 255",
                       name, describe(image), name);
  return image.dim() == 3 ? image.unsqueeze(0) : image;
}

Tensor preprocessed_image(std::string_view pipeline, const Tensor& image, int64_t scale,
                          std::optional<ImageSize> size) {
  constexpr std::string_view kName = "image";
  Tensor images = image_batch(kName, image);
  if (images.size(1) == kImageLatentChannels) return images;
  std::optional<int64_t> height;
  std::optional<int64_t> width;
  if (size) {
    height = size->first;
    width = size->second;
  }
  images = resized(images, target_size(kName, images, scale, height, width));
  if (checked_minimum(kName, images) < 0) {
    warn_once(
        fmt::format("{}: image has values below 0, expected [0, 1]; it is taken to be in [-1, 1]", pipeline));
    return images;
  }
  return 2.0 * images - 1.0;
}

Tensor preprocessed_control_image(std::string_view name, const Tensor& image, int64_t scale,
                                  std::optional<int64_t> height, std::optional<int64_t> width) {
  const Tensor images = image_batch(name, image);
  const ImageSize size = target_size(name, images, scale, height, width);
  checked_minimum(name, images);
  return resized(images, size);
}

Tensor preprocessed_mask(const Tensor& mask, const ImageSize& image_size, const ImageSize& size) {
  require<TensorError>(
      mask.defined() && mask.dim() >= 2 && mask.dim() <= 4 && mask.is_floating_point() &&
          (mask.dim() < 4 || mask.size(1) == 1) && mask.numel() > 0,
      "mask_image is {}, expected a floating [B, 1, H, W] in [0, 1], 1 where the image is to "
      "be repainted",
      describe(mask));
  Tensor masks = mask;
  if (masks.dim() == 2) masks = masks.unsqueeze(0);
  if (masks.dim() == 3) masks = masks.unsqueeze(1);
  require<TensorError>(masks.size(2) == image_size.first && masks.size(3) == image_size.second,
                       "mask_image is {} x {} (height x width), expected the size of the image, {} x {}",
                       masks.size(2), masks.size(3), image_size.first, image_size.second);
  const auto [low, high] = masks.aminmax();
  const auto least = low.item<double>();
  const auto largest = high.item<double>();
  require<TensorError>(least >= 0 && largest <= 1, "mask_image has values from {} to {}, expected [0, 1]",
                       least, largest);
  return (resized(masks, size) >= 0.5).to(at::kFloat);
}

Tensor repeated_rows(std::string_view name, const Tensor& rows, int64_t batch_size) {
  require<TensorError>(rows.size(0) > 0 && batch_size % rows.size(0) == 0,
                       "{} has {} images, expected a number that divides {}, the images to draw", name,
                       rows.size(0), batch_size);
  return rows.repeat({batch_size / rows.size(0), 1, 1, 1});
}

}  // namespace internal
}  // namespace diffusers
