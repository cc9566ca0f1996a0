#pragma once

// The flags of the programs that train on a Stable Diffusion folder and pictures with captions.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/data/image_folder.h>
#include <diffusers/training/text_to_image_models.h>
#include <diffusers/training/training_config.h>

#include "../train_flags.h"
#include "../training_data.h"

/// Values of the flags, with the defaults that diffusers' scripts share.
struct StableDiffusionSettings {
  std::string pretrained_model_name_or_path = {};
  std::string variant = {};
  std::string pretrained_vae_model_name_or_path = {};
  std::string train_data_dir = {};
  ShardSettings shards = {};  ///< of the programs that have `shard_flags()`
  std::string image_column = "image";
  std::string caption_column = "text";
  diffusers::EnumChoice<diffusers::ImageInterpolation> image_interpolation_mode =
      diffusers::ImageInterpolation::kLanczos;
  int64_t max_train_samples = 0;  ///< 0: all
  double proportion_empty_prompts = 0.0;
  bool cache_text_embeddings = false;
  bool scale_lr = false;
  bool allow_tf32 = false;
  std::string report_to = "tensorboard";
  std::string device;  ///< CUDA where there is a device
  diffusers::TrainingConfig training = {};

  /// Sets the defaults of `training` that differ from train_unconditional's.
  StableDiffusionSettings();
};

/// Adds the shared flags, and those of `TrainingConfig` with `--num_train_epochs`.
/// @param settings holds the defaults; must outlive the parsing
/// @param has_captions false leaves out the flags of pictures with captions, such as `--train_data_dir`
void add_stable_diffusion_flags(CLI::App& app, StableDiffusionSettings& settings, bool has_captions = true);

/// Flags of these scripts that are refused, with the reason.
const std::vector<RefusedFlag>& refused_stable_diffusion_flags();

/// Fills in what follows from other flags, and checks the training config.
/// @throws diffusers::ConfigError naming the flag
void complete_stable_diffusion(const CLI::App& app, StableDiffusionSettings& settings);

/// Checks that Python's scripts train the prediction type of the scheduler.
/// @throws diffusers::ConfigError for "sample"
void require_trained_prediction(const diffusers::TextToImageModels& models);

/// Loads the folder, with the VAE of `--pretrained_vae_model_name_or_path` if it is given, and moves the
/// models to `settings.device`.
/// @param dtype of the weights
/// @throws diffusers::FileError naming the component that is missing
diffusers::TextToImageModels load_stable_diffusion(const StableDiffusionSettings& settings,
                                                   at::ScalarType dtype = at::kFloat);

/// The dtype of weights that are not trained: bfloat16 or float16 with `--mixed_precision`, as in Python's
/// scripts.
at::ScalarType frozen_dtype(const diffusers::TrainingConfig& training);

/// The options of the ImageFolder of the training pictures.
diffusers::ImageFolderOptions picture_options(const StableDiffusionSettings& settings);
