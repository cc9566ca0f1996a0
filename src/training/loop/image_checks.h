#pragma once

#include <string>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// @throws TensorError with advice, unless the images are floating point
void require_floating_images(const Tensor& images);

/// Looks at the values of images that a training gets, and says if they are not scaled to [-1, 1].
class ImageRangeCheck {
 public:
  /// Reads the values. Where the images are on a device, that waits for it.
  /// @return a warning; empty if the values look right, or a warning was given before
  std::string look(const Tensor& images);

 private:
  bool has_warned_ = false;
  bool has_negative_ = false;
};

}  // namespace internal
}  // namespace diffusers
