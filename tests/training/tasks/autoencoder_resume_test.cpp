// Trainings of an AutoencoderTask that are stopped or killed, and resumed.

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/models/state_dict.h>
#include <diffusers/training/autoencoder_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "support/golden.h"
#include "training/killed_training.h"
#include "training/tiny_autoencoder_training.h"

namespace diffusers::test {
namespace {

/// @param stop the step after which the training stops; -1: never
TrainingResult train_autoencoder(const TrainingConfig& config, bool is_kl, int64_t stop = -1,
                                 useconds_t pause = 0) {
  Trainer trainer(tiny_task(is_kl), config);
  trainer.on_step([&](int64_t step) {
    if (pause > 0) ::usleep(pause);
    if (step == stop) trainer.request_stop();
  });
  return trainer.train(colour_images(7));
}

void expect_same_autoencoder(const std::string& actual, const std::string& expected, bool is_kl) {
  const std::string weights = "/diffusion_pytorch_model.safetensors";
  const std::string model = is_kl ? "vae" : "vqvae";
  std::vector<std::string> files = {model + weights,
                                    model + "_ema" + weights,
                                    "discriminator" + weights,
                                    "optimizer.safetensors",
                                    "optimizer_discriminator.safetensors",
                                    "trainer_state.safetensors"};
  if (is_kl) files.push_back("logvar" + weights);
  for (const std::string& name : files)
    EXPECT_EQ(read_text_file(join_path(actual, name)), read_text_file(join_path(expected, name))) << name;
}

TEST(AutoencoderTask, ResumesBitForBit) {
  for (const bool is_kl : {true, false}) {
    const TemporaryFolder whole;
    train_autoencoder(autoencoder_config(whole.path()), is_kl);
    for (const int64_t stop : {1, 2, 3, 6}) {
      const TemporaryFolder folder;
      TrainingConfig config = autoencoder_config(folder.path());
      EXPECT_FALSE(train_autoencoder(config, is_kl, stop).is_complete);
      config.resume_from_checkpoint = "latest";
      EXPECT_TRUE(train_autoencoder(config, is_kl).is_complete);
      expect_same_autoencoder(folder / "checkpoint-8", whole / "checkpoint-8", is_kl);
    }
    // The statistics of the discriminator are in the checkpoint.
    NLayerDiscriminator disc = NLayerDiscriminator::from_pretrained(whole / "checkpoint-8/discriminator");
    const TensorMap state = state_dict(disc);
    EXPECT_GT(state.at(is_kl ? "main.3.num_batches_tracked" : "main.3.initialized").item<int64_t>(), 0);
  }
}

TEST(AutoencoderProcess, DISABLED_TrainsOrResumes) {
  const char* folder = std::getenv(kProcessFolder);
  ASSERT_NE(folder, nullptr);
  TrainingConfig config = autoencoder_config(folder);
  config.checkpointing_steps = 1;
  if (!list_checkpoints(folder).empty()) config.resume_from_checkpoint = "latest";
  train_autoencoder(config, /*is_kl=*/true, -1, /*pause=*/15000);
}

TEST(AutoencoderTask, SurvivesBeingKilled) {
  const TemporaryFolder whole;
  train_autoencoder(autoencoder_config(whole.path()), /*is_kl=*/true);
  std::srand(1);
  constexpr int kWanted = 3;
  int kills = 0;
  for (int training = 0; kills < kWanted && training < 6 && !HasFailure(); ++training) {
    const TemporaryFolder folder;
    kills += train_with_kills(folder.path(), "AutoencoderProcess.*", kAutoencoderSteps);
    expect_same_autoencoder(folder / "checkpoint-8", whole / "checkpoint-8", /*is_kl=*/true);
  }
  EXPECT_GE(kills, kWanted) << "the other processes had ended before they were killed";
}

TEST(AutoencoderTask, OptionsOfACheckpointAreCompared) {
  const TemporaryFolder folder;
  TrainingConfig config = autoencoder_config(folder.path());
  train_autoencoder(config, /*is_kl=*/true, 3);
  config.resume_from_checkpoint = "latest";
  const auto other = std::make_shared<AutoencoderTask>(
      tiny_kl(), LPIPSWithDiscriminator({.disc_start = 2, .kl_weight = 1e-2, .perceptual_weight = 0}, nullptr,
                                        tiny_discriminator()));
  expect_throws_with<ConfigError>([&] { Trainer(other, config).train(colour_images(7)); },
                                  "kl_weight of the loss");
}

}  // namespace
}  // namespace diffusers::test
