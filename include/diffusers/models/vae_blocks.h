#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

namespace diffusers {

/// A stage of an autoencoder. Parameters are named as in the Python class that `type` of the factories below
/// names.
class VaeBlock : public torch::nn::Module {
 public:
  /// @param hidden_states `[B, in_channels, H, W]`
  /// @param latent_embeds `[B, spatial_norm_dim, h, w]` for a block made with spatial_norm_dim, else
  /// undefined
  virtual Tensor forward(const Tensor& hidden_states, const Tensor& latent_embeds = {}) const = 0;
};
using VaeBlockPointer = std::shared_ptr<VaeBlock>;

struct VaeBlockOptions {
  int64_t num_layers = 1;
  int64_t in_channels = 0;
  int64_t out_channels = 0;
  bool add_resample = true;  ///< false in the block of the lowest (encoder) or full (decoder) resolution
  double resnet_eps = 1e-6;
  layers::Activation resnet_act_fn = layers::Activation::kSilu;
  int64_t resnet_groups = 32;
  int64_t attention_head_dim = 1;
  /// Decoder blocks: channels of the latents that the norms take; nullopt for group norms.
  std::optional<int64_t> spatial_norm_dim = std::nullopt;
};

/// DownEncoderBlock2D or AttnDownEncoderBlock2D. A prefix "UNetRes" is dropped, as in Python.
/// @throws ConfigError for another type, and for channels, groups or head sizes that do not fit
VaeBlockPointer get_encoder_block(std::string_view type, const VaeBlockOptions& options);

/// UpDecoderBlock2D or AttnUpDecoderBlock2D.
/// @throws ConfigError as get_encoder_block
VaeBlockPointer get_decoder_block(std::string_view type, const VaeBlockOptions& options);

}  // namespace diffusers
