#pragma once

#include <diffusers/models/vae.h>

namespace diffusers {
inline namespace internal {

/// Returns the encoder options from a config of AutoencoderKL or VQModel, which have the same field names.
template <class Config>
VaeEncoderOptions vae_encoder_options(const Config& config, bool double_z) {
  return {.in_channels = config.in_channels,
          .out_channels = config.latent_channels,
          .down_block_types = config.down_block_types,
          .block_out_channels = config.block_out_channels,
          .layers_per_block = config.layers_per_block,
          .norm_num_groups = config.norm_num_groups,
          .act_fn = config.act_fn,
          .double_z = double_z,
          .mid_block_add_attention = config.mid_block_add_attention};
}

/// Returns the decoder options. The norms are group norms unless the caller changes them.
template <class Config>
VaeDecoderOptions vae_decoder_options(const Config& config) {
  return {.in_channels = config.latent_channels,
          .out_channels = config.out_channels,
          .up_block_types = config.up_block_types,
          .block_out_channels = config.block_out_channels,
          .layers_per_block = config.layers_per_block,
          .norm_num_groups = config.norm_num_groups,
          .act_fn = config.act_fn,
          .mid_block_add_attention = config.mid_block_add_attention};
}

}  // namespace internal
}  // namespace diffusers
