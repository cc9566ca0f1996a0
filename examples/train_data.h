#pragma once

// The data of train_mnist, and what it asks of the model.

#include <cstdint>
#include <memory>

#include <diffusers/diffusers.h>

#include "train_flags.h"

struct TrainingData {
  std::unique_ptr<diffusers::Dataset> train;
  std::unique_ptr<diffusers::Dataset> held_out;  ///< the test images; null for a folder of pictures
  int64_t channels = 0;                          ///< of the images
  int64_t num_classes = 0;                       ///< 0: the images have no labels
};

/// Opens the data set that the flags name.
/// @throws ConfigError naming the flag that does not fit it, FileError
TrainingData open_data(const Settings& settings);

/// Sets the model's channels and classes to those of the data. A model of `--model_config_name_or_path` is
/// not changed: it must have them.
/// @throws ConfigError naming the flag that does not fit
void fit_model(Settings& settings, const TrainingData& data);
