#pragma once

// The work of train_unconditional: data, model, training and samples. Programs that extend it choose the
// sampler.

#include <cstdint>
#include <functional>

#include <diffusers/core/tensor.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <c10/core/Device.h>

#include "../stoppable_preview.h"
#include "../training_data.h"
#include "unconditional_flags.h"

/// Settings of the sampler.
struct Sampler {
  bool use_ddim = false;     ///< DDIM instead of DDPM
  double eta = 0.0;          ///< DDIM only: 0 adds no noise, 1 adds as much as DDPM
  double temperature = 1.0;  ///< DDIM only: factor of this noise
};

/// Samples to draw.
struct SampleRequest {
  diffusers::Tensor labels = {};  ///< int64 `[count]`; undefined without class-conditional training
  int64_t count = 0;
  int64_t steps = 0;
  double guidance_scale = 1.0;
  /// Called before each denoising step. If it returns true, sampling ends with `PreviewStopped`.
  std::function<bool()> must_stop = {};
};

class UnconditionalTraining {
 public:
  /// Opens the data, makes the model and prints a line about both.
  /// @throws diffusers::ConfigError naming the flag that does not fit the data; diffusers::FileError if the
  ///   data cannot be read
  UnconditionalTraining(UnconditionalSettings settings, Sampler sampler);

  const TrainingData& data() const { return data_; }
  /// Returns the number of columns of a grid of samples: one for each class, at most 10; 4 without classes.
  int64_t columns() const;
  /// Returns the labels of `count` samples: 0, 1, ..., num_classes - 1, 0, ...; undefined without
  /// class-conditional training.
  diffusers::Tensor labels(int64_t count, int64_t num_classes) const;
  /// Draws samples `[count, C, H, W]` in [0, 1] with the seed 0.
  /// @throws PreviewStopped if `must_stop` returns true
  diffusers::Tensor sample(const SampleRequest& request);

  /// Trains, and writes the pipeline to `--output_dir`.
  /// @param preview draws and logs images; it is called every `--save_images_epochs` or `--validation_steps`,
  ///        and at the end
  diffusers::TrainingResult train(const std::function<void(const diffusers::PreviewContext&)>& preview);

 private:
  /// Chooses `validation_steps` so that previews come every `save_images_epochs` and `save_model_epochs`.
  void choose_preview_steps();

  UnconditionalSettings settings_;
  Sampler sampler_;
  at::Device device_;
  TrainingData data_;
  diffusers::UNet2DModel unet_{nullptr};
  diffusers::DDPMScheduler scheduler_;
};
