#pragma once

#include <diffusers/models/unet_2d.h>

namespace diffusers::test {

/// Returns the config of a minimal model for images `[1, 8, 8]`.
inline UNet2DModelConfig small_unet_config() {
  return {.sample_size = 8,
          .in_channels = 1,
          .out_channels = 1,
          .down_block_types = {"DownBlock2D"},
          .up_block_types = {"UpBlock2D"},
          .block_out_channels = {8},
          .layers_per_block = 1,
          .norm_num_groups = 2};
}

}  // namespace diffusers::test
