#pragma once

// The flags that train_controlnet and train_t2i_adapter add to those of a Stable Diffusion folder.

#include <cstdint>
#include <string>
#include <vector>

#include "previews.h"
#include "stable_diffusion_flags.h"

/// Values of the flags, with the defaults of diffusers' scripts.
struct ConditioningSettings {
  std::string tokenizer_name = {};
  int64_t crops_coords_top_left_h = 0;
  int64_t crops_coords_top_left_w = 0;
  std::string conditioning_image_column = "conditioning_image";
  std::vector<std::string> validation_prompts = {};
  std::vector<std::string> validation_images = {};
  int64_t num_validation_images = 4;
};

/// Adds the flags.
/// @param settings holds the defaults; must outlive the parsing
void add_conditioning_flags(CLI::App& app, ConditioningSettings& settings);

/// Checks the flags of the previews, and sets the interval of `--validation_steps` if it is not given.
/// @return no prompts: no previews
/// @throws diffusers::ConfigError naming the flag
PreviewInputs complete_previews(const CLI::App& app, const ConditioningSettings& settings,
                                diffusers::TrainingConfig& training);

/// Refuses previews for Stable Diffusion XL.
/// @param missing pipeline that the library does not have, for the message
/// @throws diffusers::ConfigError naming the flag
void refuse_xl_previews(const PreviewInputs& previews, const diffusers::TextToImageModels& models,
                        const std::string& missing);

/// Loads the folder as `load_stable_diffusion` does, with the tokenizer of `--tokenizer_name` if it is given.
/// @throws diffusers::FileError naming the component that is missing
diffusers::TextToImageModels load_conditioned_models(const StableDiffusionSettings& shared,
                                                     const ConditioningSettings& settings);

/// The options of the ImageFolder of the training pictures and their conditioning images.
diffusers::ImageFolderOptions conditioned_picture_options(const StableDiffusionSettings& shared,
                                                          const ConditioningSettings& settings);
