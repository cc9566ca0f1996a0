#pragma once

// The UNets of tests/reference/latent_diffusion.py, for latents of two channels at 4 x 4.

#include <cstdint>
#include <optional>

#include <diffusers/core/random.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>

namespace diffusers::test {

inline UNet2DModel tiny_latent_unet(int64_t in_channels = 2, std::optional<int64_t> classes = std::nullopt) {
  manual_seed(31);
  return UNet2DModel({.sample_size = 4,
                      .in_channels = in_channels,
                      .out_channels = 2,
                      .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                      .block_out_channels = {4, 8},
                      .layers_per_block = 1,
                      .attention_head_dim = 4,
                      .norm_num_groups = 2,
                      .num_class_embeds = classes});
}

inline UNet2DConditionModel tiny_condition_unet(int64_t in_channels = 2, int64_t width = 6) {
  manual_seed(32);
  return UNet2DConditionModel({.sample_size = 4,
                               .in_channels = in_channels,
                               .out_channels = 2,
                               .down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"},
                               .up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"},
                               .block_out_channels = {4, 8},
                               .layers_per_block = 1,
                               .norm_num_groups = 2,
                               .cross_attention_dim = width,
                               .attention_head_dim = 2});
}

}  // namespace diffusers::test
