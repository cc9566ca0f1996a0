#pragma once

#include <vector>

#include <diffusers/core/tensor_map.h>
#include <diffusers/training/optimizer.h>
#include <diffusers/training/parameter_groups.h>
#include <diffusers/training/task.h>
#include <diffusers/training/training_config.h>

namespace diffusers {

/// The parameters of all models of a task. Those of the first have their own names, those of the others the
/// name of their model before them: "conv_in.weight", "log_variance.logvar".
TensorMap named_parameters(const Task& task);

/// Sets requires_grad as `train_only` and `freeze` say. @throws ConfigError naming a pattern that fits no
/// name
void apply_freezing(const TensorMap& parameters, const TrainingConfig& config);

/// The trained parameters in groups of one weight decay, as `no_decay` and `no_weight_decay_on_bias_and_norm`
/// say.
std::vector<ParameterGroup> parameter_groups(const Task& task, const TrainingConfig& config);

/// The optimizer's options among the flags. @throws ConfigError for a flag that it does not know
OptimizerConfig optimizer_config(const TrainingConfig& config);

}  // namespace diffusers
