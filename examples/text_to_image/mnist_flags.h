#pragma once

// The flags of the programs that train Stable Diffusion's models on the digits of MNIST.

#include <cstdint>
#include <memory>
#include <string>

#include <diffusers/data/mnist.h>
#include <diffusers/training/training_config.h>

#include "../flags.h"
#include "../train_flags.h"

/// Values of the flags that these programs share.
struct DigitSettings {
  std::string data_dir = "examples/data/mnist";
  int64_t max_train_samples = 0;  ///< 0: all
  std::string device;             ///< CUDA where there is a device
  double proportion_empty_prompts = 0.1;
  int64_t eval_batch_size = 400;  ///< number of samples that are evaluated
  int64_t num_inference_steps = 25;
  double guidance_scale = 2.0;
  diffusers::TrainingConfig training = {};

  /// Sets the defaults of `training` that all of them have.
  DigitSettings();
};

/// Adds the shared flags and those of `TrainingConfig`, without `--proportion_empty_prompts`.
/// @param settings holds the defaults; must outlive the parsing
void add_digit_flags(CLI::App& app, DigitSettings& settings);

/// Adds `--proportion_empty_prompts`, for a task that has this option.
/// @param settings holds the default; must outlive the parsing
void add_empty_prompt_flag(CLI::App& app, DigitSettings& settings);

/// Fills in values that follow from other flags, and checks the training config.
/// @throws diffusers::ConfigError naming the flag
void complete_digit_settings(const CLI::App& app, DigitSettings& settings);

/// Opens the digits, padded with black to `--resolution`.
/// @throws diffusers::ConfigError if `--resolution` is not a multiple of 8, or smaller than the images;
///   diffusers::FileError if the files cannot be read
std::shared_ptr<const diffusers::MnistDataset> open_padded_digits(const DigitSettings& settings,
                                                                  diffusers::Split split);
