#pragma once

// The job of train_unconditional: data, model, training, samples. Programs on top of it choose how samples
// are drawn.

#include <cstdint>
#include <functional>

#include <diffusers/core/tensor.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <c10/core/Device.h>

#include "unconditional_data.h"
#include "unconditional_flags.h"

/// How samples are drawn.
struct Sampler {
  bool use_ddim = false;     ///< DDIM instead of DDPM
  double eta = 0.0;          ///< DDIM only: 0 adds no noise, 1 as much as DDPM
  double temperature = 1.0;  ///< DDIM only: factor on that noise
};

/// Samples to draw.
struct SampleRequest {
  diffusers::Tensor labels = {};  ///< int64 `[count]`; undefined without class-conditional training
  int64_t count = 0;
  int64_t steps = 0;
  double guidance_scale = 1.0;
  /// Asked before each denoising step: true ends the drawing with `DrawingStopped`.
  std::function<bool()> must_stop = {};
};

/// Thrown by `UnconditionalTraining::sample` when `SampleRequest::must_stop` says so.
struct DrawingStopped {};

class UnconditionalTraining {
 public:
  /// Opens the data and makes the model; prints a line about both.
  /// @throws diffusers::ConfigError naming the flag that does not fit the data, diffusers::FileError
  UnconditionalTraining(UnconditionalSettings settings, Sampler sampler);

  const TrainingData& data() const { return data_; }
  /// Columns of a grid of samples: one for each class, at most 10; 4 without classes.
  int64_t columns() const;
  /// Labels of `count` samples, 0, 1, ..., num_classes - 1, 0, ...; undefined without class-conditional
  /// training.
  diffusers::Tensor labels(int64_t count, int64_t num_classes) const;
  /// Samples `[count, C, H, W]` in [0, 1], drawn with the seed 0.
  /// @throws DrawingStopped
  diffusers::Tensor sample(const SampleRequest& request);

  /// Trains, and writes the pipeline into `--output_dir`.
  /// @param preview draws and logs pictures; it is called every `--save_images_epochs` or
  ///        `--validation_steps`, and at the end
  diffusers::TrainingResult train(const std::function<void(const diffusers::PreviewContext&)>& preview);

 private:
  /// Optimizer steps of an epoch.
  int64_t steps_per_epoch() const;
  /// Chooses `validation_steps` so that previews come every `save_images_epochs` and `save_model_epochs`.
  void choose_preview_steps();

  UnconditionalSettings settings_;
  Sampler sampler_;
  at::Device device_;
  TrainingData data_;
  diffusers::UNet2DModel unet_{nullptr};
  diffusers::DDPMScheduler scheduler_;
};

/// The exit code of a program whose training ended: 0, or 128 and the number of the signal that stopped it.
int exit_code(const diffusers::TrainingResult& result);
