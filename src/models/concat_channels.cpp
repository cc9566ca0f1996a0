#include "models/concat_channels.h"

#include <torch/types.h>

namespace diffusers {
inline namespace internal {

Tensor resized_conditioning_images(const Tensor& images, const Tensor& latents) {
  const Tensor resized = at::adaptive_avg_pool2d(
      images.to(latents.options()), {latents.size(latents.dim() - 2), latents.size(latents.dim() - 1)});
  return resized * 2 - 1;
}

Tensor inpainting_channels(const Tensor& masks, const Tensor& masked_latents) {
  const Tensor resized = at::upsample_nearest2d(masks.to(masked_latents.options()),
                                                {masked_latents.size(2), masked_latents.size(3)});
  return at::cat({resized, masked_latents}, 1);
}

}  // namespace internal
}  // namespace diffusers
