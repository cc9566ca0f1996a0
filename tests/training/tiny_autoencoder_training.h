#pragma once

// Trainings of the autoencoders of tests/reference/autoencoder_training.py.

#include <cstdint>
#include <memory>
#include <string>

#include <diffusers/data/tensor_dataset.h>
#include <diffusers/training/autoencoder_task.h>
#include <diffusers/training/trainer.h>

#include "models/vae/training_golden.h"
#include "training/quick_training.h"

namespace diffusers::test {

inline constexpr int64_t kAutoencoderSteps = 8;

/// The models of tests/reference/autoencoder_training.py.
inline AutoencoderKLConfig tiny_kl_config() {
  return {.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"},
          .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"},
          .block_out_channels = {4, 8},
          .norm_num_groups = 2,
          .sample_size = 16,
          .mid_block_add_attention = false};
}
inline VQModelConfig tiny_vq_config() {
  return {.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"},
          .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"},
          .block_out_channels = {4, 8},
          .sample_size = 16,
          .num_vq_embeddings = 16,
          .norm_num_groups = 2,
          .mid_block_add_attention = false};
}

inline AutoencoderKL tiny_kl() {
  manual_seed(kGoldenModelSeed);
  return AutoencoderKL(tiny_kl_config());
}
inline VQModel tiny_vq() {
  manual_seed(kGoldenModelSeed);
  return VQModel(tiny_vq_config());
}

inline NLayerDiscriminator tiny_discriminator(bool use_actnorm = false) {
  return golden_discriminator({.ndf = 4, .n_layers = 2, .use_actnorm = use_actnorm}, at::kFloat);
}

inline TensorDataset colour_images(int64_t count) {
  return TensorDataset(drawn_images(make_generator(5), {count, 3, 16, 16}));
}

inline std::shared_ptr<AutoencoderTask> tiny_task(bool is_kl, int64_t disc_start = 2) {
  if (is_kl)
    return std::make_shared<AutoencoderTask>(
        tiny_kl(),
        LPIPSWithDiscriminator({.disc_start = disc_start, .kl_weight = 1e-3, .perceptual_weight = 0}, nullptr,
                               tiny_discriminator()));
  return std::make_shared<AutoencoderTask>(
      tiny_vq(), VQLPIPSWithDiscriminator({.disc_start = disc_start, .perceptual_weight = 0}, nullptr,
                                          tiny_discriminator(/*use_actnorm=*/true)));
}

inline TrainingConfig autoencoder_config(const std::string& output_dir) {
  TrainingConfig config = quiet_config(output_dir);
  config.max_train_steps = kAutoencoderSteps;
  config.train_batch_size = 3;
  config.use_ema = true;
  config.logging_steps = 2;
  config.checkpointing_steps = kAutoencoderSteps;
  return config;
}

}  // namespace diffusers::test
