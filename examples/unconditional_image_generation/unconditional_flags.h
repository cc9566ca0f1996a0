#pragma once

// The command line of train_unconditional, and of the programs on top of it.

#include <cstdint>
#include <optional>
#include <string>

#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/diffusion_task_options.h>
#include <diffusers/training/training_config.h>

#include "../flags.h"

/// Values of the flags. The defaults are those of diffusers' `train_unconditional.py`.
struct UnconditionalSettings {
  std::string train_data_dir = {};  ///< folder of pictures; its sub-folders are the classes
  std::string dataset = {};         ///< mnist or fashion-mnist: four IDX files; instead of `train_data_dir`
  std::string data_dir = {};        ///< folder of the IDX files; empty: `data_folder()` knows a default
  bool center_crop = false;
  bool random_flip = false;
  bool class_conditional = false;
  std::string model_config_name_or_path = {};
  std::string device;  ///< CUDA where there is a device
  std::string logger = "tensorboard";
  int64_t eval_batch_size = 16;
  int64_t ddpm_num_inference_steps = 1000;
  double guidance_scale = 2.0;  ///< of class-conditional samples
  /// Epochs between two previews and two saves of the model. None: `training.validation_steps` decides, and
  /// the model is saved at the end only.
  std::optional<int64_t> save_images_epochs = 10;
  std::optional<int64_t> save_model_epochs = 10;

  /// The model to train. `complete_settings` replaces it by that of `model_config_name_or_path`.
  diffusers::UNet2DModelConfig model;
  diffusers::DDPMSchedulerConfig scheduler = {};
  diffusers::TrainingConfig training = {};
  diffusers::DiffusionTaskOptions task = {};

  /// The model is the script's, the device the best there is.
  UnconditionalSettings();

  bool is_idx() const { return !dataset.empty(); }
  bool has_model_config() const { return !model_config_name_or_path.empty(); }
  std::string data_folder() const;
  /// The flag that names the data and its value, for messages: "--dataset mnist".
  std::string data_flag() const;
};

/// Adds the flags of `train_unconditional.py`, those of IDX files and of class-conditional training.
/// @param settings holds the defaults; must outlive the parsing
void add_unconditional_flags(CLI::App& app, UnconditionalSettings& settings);

/// Checks how the flags fit together, reads the model's config and fills in what follows from the flags.
/// @param default_resolution side of the images where neither a flag nor a model config says it
/// @throws diffusers::ConfigError naming the flag, diffusers::FileError
void complete_settings(const CLI::App& app, UnconditionalSettings& settings, int64_t default_resolution);
