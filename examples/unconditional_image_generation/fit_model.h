#pragma once

// The requirements of the data for the model of unconditional training.

#include "../training_data.h"
#include "unconditional_flags.h"

/// Sets the model's channels and classes to those of the data. A model of `--model_config_name_or_path` is
/// not changed but checked.
/// @throws diffusers::ConfigError naming the flag that does not fit
void fit_model(UnconditionalSettings& settings, const TrainingData& data);
