#pragma once

// The data of unconditional training, and its requirements for the model.

#include <cstdint>
#include <memory>

#include <diffusers/data/dataset.h>

#include "unconditional_flags.h"

struct TrainingData {
  std::unique_ptr<diffusers::Dataset> train;
  std::unique_ptr<diffusers::Dataset> held_out;  ///< the test images; null for a folder of images
  int64_t channels = 0;                          ///< channels of the images
  int64_t num_classes = 0;                       ///< 0: the images have no labels
};

/// Opens the dataset of the flags.
/// @throws diffusers::ConfigError naming the flag that does not fit the dataset; diffusers::FileError if it
///   cannot be read
TrainingData open_data(const UnconditionalSettings& settings);

/// Sets the model's channels and classes to those of the data. A model of `--model_config_name_or_path` is
/// not changed but checked.
/// @throws diffusers::ConfigError naming the flag that does not fit
void fit_model(UnconditionalSettings& settings, const TrainingData& data);
