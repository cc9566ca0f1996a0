#pragma once

// The flags that the DreamBooth programs share, and the data and the models that they name.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/data/dreambooth_dataset.h>
#include <diffusers/training/text_to_image_models.h>

#include "../text_to_image/previews.h"
#include "../text_to_image/stable_diffusion_flags.h"

/// Values of the flags, with the defaults that diffusers' DreamBooth scripts share.
struct DreamBoothSettings {
  std::string instance_data_dir = {};
  std::string instance_prompt = {};
  std::string class_data_dir = {};
  std::string class_prompt = {};
  bool with_prior_preservation = false;
  double prior_loss_weight = 1.0;
  int64_t num_class_images = 100;
  int64_t sample_batch_size = 4;
  std::string prior_generation_precision = "no";
  std::string tokenizer_name = {};
  bool train_text_encoder = false;
  bool pre_compute_text_embeddings = false;
  int64_t repeats = 1;
  bool center_crop = false;
  bool random_flip = false;
  diffusers::EnumChoice<diffusers::ImageInterpolation> image_interpolation_mode =
      diffusers::ImageInterpolation::kBilinear;
  std::vector<std::string> validation_prompts = {};
  int64_t num_validation_images = 4;
};

/// Returns the flags of the images, the class images, the text encoder and the previews.
const FlagTable<DreamBoothSettings>& dreambooth_flags();

/// Flags of these scripts that are refused, with the reason.
std::vector<RefusedFlag> refused_dreambooth_flags();

/// Sets the defaults of `training` that the scripts share.
void set_dreambooth_defaults(diffusers::TrainingConfig& training);

/// Checks the flags that depend on each other.
/// @throws diffusers::ConfigError naming the flag
void check_dreambooth_flags(const CLI::App& app, const DreamBoothSettings& settings);

/// Loads the models, with the tokenizer of `--tokenizer_name` if it is given.
/// @param dtype of the weights
/// @throws diffusers::FileError naming the component that is missing; diffusers::ConfigError for a UNet that
///   Python's scripts do not train
diffusers::TextToImageModels load_dreambooth_models(const DreamBoothSettings& settings,
                                                    const StableDiffusionSettings& shared,
                                                    at::ScalarType dtype = at::kFloat);

/// Opens the instance images, and the class images with `--with_prior_preservation`. Class images that are
/// missing are generated before, see `make_class_images`.
/// @throws diffusers::FileError if a folder has no images
diffusers::DreamBoothDataset open_dreambooth_data(const DreamBoothSettings& settings,
                                                  const StableDiffusionSettings& shared,
                                                  const diffusers::TextToImageModels& models);
