#pragma once

// Short trainings of a tiny model.

#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/training/trainer.h>

#include "support/log_capture.h"
#include "training/tiny_model.h"

namespace diffusers::test {

/// Returns the config of most tests: 4 images per batch, one epoch, a constant learning rate, no checkpoints
/// and no progress bar.
inline TrainingConfig quiet_config(const std::string& output_dir) {
  TrainingConfig config;
  config.output_dir = output_dir;
  config.seed = 3;
  config.train_batch_size = 4;
  config.num_epochs = 1;
  config.learning_rate = 1e-2;
  config.lr_scheduler = "constant";
  config.lr_warmup_steps = 0;
  config.checkpointing_steps = 0;
  config.logging_steps = 1;
  config.progress_bar = false;
  return config;
}

inline TinyNet seeded_net(double dropout = 0.0) {
  manual_seed(11);
  return TinyNet(dropout);
}

inline std::vector<Tensor> copies(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> result;
  for (const Tensor& tensor : tensors) result.push_back(tensor.detach().clone());
  return result;
}

}  // namespace diffusers::test
