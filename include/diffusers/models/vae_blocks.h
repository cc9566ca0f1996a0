#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

namespace diffusers {

/// A block of an autoencoder. Parameters have the state-dict names of the Python class of that type.
class VaeBlock : public torch::nn::Module {
 public:
  /// Applies the block.
  /// @param hidden_states `[B, in_channels, H, W]`; a tensor that is moved here is freed after its last use
  /// @param latent_embeds `[B, spatial_norm_dim, h, w]` for a block with spatial_norm_dim, else undefined
  /// @return `[B, out_channels, H, W]`, or half (encoder) or twice (decoder) the height and width
  virtual Tensor forward(Tensor hidden_states, const Tensor& latent_embeds = {}) const = 0;
};
/// A shared pointer to a block.
using VaeBlockPointer = std::shared_ptr<VaeBlock>;

/// The arguments of `get_encoder_block` and `get_decoder_block`.
struct VaeBlockOptions {
  int64_t num_layers = 1;    ///< residual blocks
  int64_t in_channels = 0;   ///< channels of the input
  int64_t out_channels = 0;  ///< channels of the result
  bool add_resample = true;  ///< false in the block at the lowest (encoder) or full (decoder) resolution
  double resnet_eps = 1e-6;  ///< epsilon of the norms
  layers::Activation resnet_act_fn = layers::Activation::kSilu;  ///< activation of the residual blocks
  int64_t resnet_groups = 32;                                    ///< groups of the norms
  int64_t attention_head_dim = 1;                                ///< channels of a head
  /// Decoder blocks: channels of the latents of spatial norms. nullopt: group norms.
  std::optional<int64_t> spatial_norm_dim = std::nullopt;
};

/// Makes a block of an encoder.
/// @param type DownEncoderBlock2D or AttnDownEncoderBlock2D. A prefix "UNetRes" is dropped, as in Python.
/// @param options the arguments of the block
/// @return the block
/// @throws ConfigError for an unknown type, listing the known types; and for channels, groups or head sizes
///   that do not fit
VaeBlockPointer get_encoder_block(std::string_view type, const VaeBlockOptions& options);

/// Makes a block of a decoder.
/// @param type UpDecoderBlock2D or AttnUpDecoderBlock2D
/// @param options the arguments of the block
/// @return the block
/// @throws ConfigError as `get_encoder_block`
VaeBlockPointer get_decoder_block(std::string_view type, const VaeBlockOptions& options);

}  // namespace diffusers
