#include "training/loop/image_checks.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

// Latents that no scaling factor was applied to reach about 30, scaled ones and images stay below.
constexpr double kLargestValue = 8.0;

}  // namespace

void require_floating_images(const Tensor& images) {
  require<TensorError>(images.defined() && at::isFloatingType(images.scalar_type()),
                       "the dataset gives images {}, expected floating point in [-1, 1]; convert bytes with "
                       "images.to(torch::kFloat) / 127.5 - 1",
                       describe(images));
}

std::string ImageRangeCheck::look(const Tensor& images) {
  if (has_warned_ || !images.defined() || images.numel() == 0) return {};
  const at::NoGradGuard no_grad;
  const auto [low, high] = images.aminmax();
  const auto least = low.item<double>();
  const auto largest = high.item<double>();
  if (!std::isfinite(least) || !std::isfinite(largest) || least == largest) return {};
  has_negative_ = has_negative_ || least < 0;
  std::string advice;
  if (!has_negative_ && largest > 1) {
    advice = "images in [0, 255] are converted with images / 127.5 - 1";
  } else if (!has_negative_) {
    advice = "if 0 is black and 1 is white, they are converted with images * 2 - 1";
  } else if (std::max(-least, largest) > kLargestValue) {
    advice = "latents are multiplied with the scaling_factor of their autoencoder";
  } else {
    return {};
  }
  has_warned_ = true;
  return fmt::format("the dataset gives images from {} to {}, expected [-1, 1]; {}", least, largest, advice);
}

}  // namespace internal
}  // namespace diffusers
