#pragma once

// The command line of train_latent_diffusion.

#include <cstdint>
#include <string>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/diffusion_task_options.h>
#include <diffusers/training/latent_cache.h>
#include <diffusers/training/latent_diffusion_task.h>
#include <diffusers/training/training_config.h>

#include "../training_data.h"

/// Values of the flags.
struct LatentSettings {
  std::string vae = {};           ///< folder of the autoencoder, or a pipeline folder that has one
  std::string text_encoder = {};  ///< pipeline folder with `text_encoder/` and `tokenizer/`
  diffusers::EnumChoice<diffusers::ConditioningKey> conditioning_key = diffusers::ConditioningKey::kNone;
  diffusers::EnumChoice<diffusers::ConcatInput> concat_input = diffusers::ConcatInput::kConditioningImages;
  double conditioning_dropout_prob = 0.0;
  bool scale_by_std = false;
  std::string latent_cache = {};  ///< folder of the cached latents; empty: none
  diffusers::EnumChoice<diffusers::LatentCacheFormat> latent_cache_format =
      diffusers::LatentCacheFormat::kSafetensors;

  DataSettings data = {};
  std::string caption_column = {};
  std::string conditioning_image_column = {};
  std::string mask_column = {};

  std::string model_config_name_or_path = {};
  std::string device;  ///< CUDA where there is a device
  std::string logger = "tensorboard";
  int64_t eval_batch_size = 16;
  int64_t num_inference_steps = 50;
  double guidance_scale = 1.0;
  int64_t num_evaluation_samples = 500;  ///< judged by a classifier after a training with `evaluates()`

  diffusers::DDPMSchedulerConfig scheduler;
  diffusers::TrainingConfig training = {};
  diffusers::DiffusionTaskOptions task = {};

  /// The noise schedule is latent-diffusion's, the device the best there is.
  LatentSettings();

  /// True for `crossattn` and `hybrid`.
  bool attends() const;
  /// True for `concat` and `hybrid`.
  bool concatenates() const;
  /// True for `--concat_input inpainting`.
  bool inpaints() const;
  /// True for IDX files with class labels: a classifier can judge the samples.
  bool evaluates() const;
};

/// Adds the flags of the program and those that all training programs share.
/// @param settings holds the defaults; must outlive the parsing
void add_latent_flags(CLI::App& app, LatentSettings& settings);

/// Checks how the flags fit together, and fills in what follows from other flags.
/// @throws diffusers::ConfigError naming the flag
void complete_latent_settings(const CLI::App& app, LatentSettings& settings);
