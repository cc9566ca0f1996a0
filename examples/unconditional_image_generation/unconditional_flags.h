#pragma once

// The command line of train_unconditional, which train_mnist extends.

#include <cstdint>
#include <optional>
#include <string>

#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/diffusion_task_options.h>
#include <diffusers/training/training_config.h>

#include "../training_data.h"

/// Values of the flags. The defaults are those of diffusers' `train_unconditional.py`.
struct UnconditionalSettings {
  DataSettings data = {};
  bool class_conditional = false;
  std::string model_config_name_or_path = {};
  std::string device;  ///< CUDA if there is a device
  std::string logger = "tensorboard";
  int64_t eval_batch_size = 16;
  int64_t ddpm_num_inference_steps = 1000;
  double guidance_scale = 2.0;  ///< guidance scale of class-conditional samples
  /// Number of epochs between two previews and between two saves of the model. nullopt:
  /// `training.validation_steps` sets the previews, and the model is saved only at the end.
  std::optional<int64_t> save_images_epochs = 10;
  std::optional<int64_t> save_model_epochs = 10;

  /// The model to train. `complete_settings` replaces it with that of `model_config_name_or_path`.
  diffusers::UNet2DModelConfig model;
  diffusers::DDPMSchedulerConfig scheduler = {};
  diffusers::TrainingConfig training = {};
  diffusers::DiffusionTaskOptions task = {};

  /// Sets the model of the Python script, and the device: CUDA if it is available, else the CPU.
  UnconditionalSettings();

  bool has_model_config() const { return !model_config_name_or_path.empty(); }
};

/// Adds the flags of `train_unconditional.py`, those of IDX files and of class-conditional training.
/// @param settings the defaults; the object must outlive the parsing
void add_unconditional_flags(CLI::App& app, UnconditionalSettings& settings);

/// Checks the combination of flags, reads the model's config and sets the values that depend on other flags.
/// @param default_resolution side of the images if neither a flag nor a model config sets it
/// @throws diffusers::ConfigError naming the flag; diffusers::FileError if a config cannot be read
void complete_settings(const CLI::App& app, UnconditionalSettings& settings, int64_t default_resolution);
