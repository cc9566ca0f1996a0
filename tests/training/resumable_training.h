#pragma once

// A short training that is interrupted and resumed, for tests of checkpoints.

#include <fstream>
#include <string>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "support/golden.h"
#include "training/tiny_model.h"

namespace diffusers::test {

/// Returns 18 images. With batches of 3 and two batches per step, an epoch has 3 steps, and three epochs
/// have 9.
inline const TinyImages& resumable_images() {
  static const TinyImages kImages(18);
  return kImages;
}
inline constexpr int64_t kSteps = 9;

inline TrainingConfig resumable_config(const std::string& output_dir) {
  TrainingConfig config;
  config.output_dir = output_dir;
  config.seed = 5;
  config.train_batch_size = 3;
  config.max_train_steps = kSteps;
  config.gradient_accumulation_steps = 2;
  config.learning_rate = 1e-2;
  config.lr_warmup_steps = 2;
  config.use_ema = true;
  config.checkpointing_steps = kSteps;
  config.logging_steps = 2;
  config.progress_bar = false;
  return config;
}

/// Trains a new network up to step `stop` or to the end. Changed `validation_samples` add held-out data.
/// @param pause microseconds after each step
inline TrainingResult train_until(TrainingConfig config, int64_t stop, bool previews = false,
                                  at::Device device = at::kCPU, useconds_t pause = 0,
                                  const DiffusionTaskOptions& options = {}) {
  // A new process draws other initial weights. On resume they are loaded from the checkpoint.
  TinyNet model(0.2);
  if (!config.resume_from_checkpoint) {
    manual_seed(1);
    model = TinyNet(0.2);
  }
  if (previews) config.validation_steps = 1;
  model->to(device);
  Trainer trainer(model, DDPMScheduler(), config, options);
  trainer.on_preview([&](const PreviewContext&) { at::randn({100}, device); });
  trainer.on_step([&](int64_t step) {
    if (pause > 0) ::usleep(pause);
    if (step == stop) trainer.request_stop();
  });
  if (config.validation_samples != TrainingConfig{}.validation_samples)
    return trainer.train(resumable_images(), resumable_images());
  return trainer.train(resumable_images());
}

/// Trains on the CPU with options of the task.
inline TrainingResult train_until(const TrainingConfig& config, int64_t stop,
                                  const DiffusionTaskOptions& options) {
  return train_until(config, stop, /*previews=*/false, at::kCPU, /*pause=*/0, options);
}

inline void expect_same_checkpoint(const std::string& actual, const std::string& expected) {
  for (const char* name :
       {"unet/diffusion_pytorch_model.safetensors", "unet_ema/diffusion_pytorch_model.safetensors",
        "optimizer.safetensors", "trainer_state.safetensors", "unet_ema/config.json"})
    EXPECT_EQ(read_text_file(join_path(actual, name)), read_text_file(join_path(expected, name))) << name;
}

/// Flips one bit in the middle of a file.
inline void damage(const std::string& path) {
  std::string bytes = read_text_file(path);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace diffusers::test
