#pragma once

// Small autoencoders that halve an image once, for tests of latent diffusion.

#include <cstdint>
#include <utility>

#include <diffusers/core/random.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/vq_model.h>

#include <ATen/ATen.h>

namespace diffusers::test {

inline AutoencoderKLConfig tiny_vae_config() {
  return {.in_channels = 3,
          .out_channels = 3,
          .down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"},
          .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"},
          .block_out_channels = {4, 8},
          .latent_channels = 2,
          .norm_num_groups = 2,
          .sample_size = 8};
}

/// The same weights each time.
inline AutoencoderKL tiny_vae(AutoencoderKLConfig config = tiny_vae_config()) {
  manual_seed(21);
  return AutoencoderKL(std::move(config));
}

inline VQModel tiny_vqvae() {
  manual_seed(22);
  return VQModel({.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"},
                  .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"},
                  .block_out_channels = {4, 8},
                  .latent_channels = 2,
                  .sample_size = 8,
                  .num_vq_embeddings = 16,
                  .norm_num_groups = 2});
}

inline Tensor tiny_images(int64_t count = 3, int64_t side = 8) {
  return at::rand({count, 3, side, side}, make_generator(23)) * 2 - 1;
}

}  // namespace diffusers::test
