#pragma once

// Channels that a latent diffusion model receives behind the latents, in training as in sampling.

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// Resizes conditioning images to the size of latents. Pixels are averaged, which equals the repeated halving
/// of latent-diffusion's SpatialRescaler where the sizes divide.
/// @param images `[B, C, H, W]` in [0, 1]
/// @param latents `[B, ..., h, w]`
/// @return `[B, C, h, w]` in [-1, 1], dtype and device of the latents
Tensor resized_conditioning_images(const Tensor& images, const Tensor& latents);

/// Joins what an inpainting model receives behind the noisy latents.
/// @param masks `[B, 1, H, W]`, 1 where an image is to be inpainted; resized to the latents, nearest pixel
/// @param masked_latents `[B, C, h, w]`, latents of the images without the masked part
/// @return `[B, 1 + C, h, w]`: mask, then latents
Tensor inpainting_channels(const Tensor& masks, const Tensor& masked_latents);

}  // namespace internal
}  // namespace diffusers
