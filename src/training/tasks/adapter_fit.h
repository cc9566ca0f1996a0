#pragma once

// Whether the features of a T2I-adapter fit the UNet that they are added to.

#include <cstdint>
#include <string>
#include <vector>

#include <diffusers/models/t2i_adapter.h>
#include <diffusers/models/unet_2d_condition.h>

namespace diffusers {
inline namespace internal {

/// Size of a feature map of an adapter or of a UNet.
struct FeatureSize {
  int64_t channels = 0;
  int64_t factor = 1;  ///< height of the image divided by height of the feature map

  bool operator==(const FeatureSize&) const = default;
};

/// The features that an adapter computes, in their order.
std::vector<FeatureSize> adapter_features(const T2IAdapterConfig& adapter);

/// Compares the features of an adapter with those that a UNet takes: one for each down block, and optionally
/// one for the middle block.
/// @param vae_factor height of an image divided by that of its latents
/// @return what does not fit; empty if the adapter fits
std::string adapter_misfit(const T2IAdapterConfig& adapter, const UNet2DConditionModelConfig& unet,
                           int64_t vae_factor);

/// The config of a new adapter for a UNet: "full_adapter_xl" for Stable Diffusion XL and "full_adapter" for
/// the others, as in Python, or the other one of the two if that one does not fit the down blocks.
/// @throws ConfigError if neither fits
T2IAdapterConfig new_adapter_config(const UNet2DConditionModelConfig& unet, bool is_xl, int64_t vae_factor);

}  // namespace internal
}  // namespace diffusers
