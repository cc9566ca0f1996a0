#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <diffusers/core/tensor_map.h>
#include <diffusers/training/optimizer.h>
#include <diffusers/training/parameter_groups.h>
#include <diffusers/training/task.h>
#include <diffusers/training/training_config.h>

namespace diffusers {
inline namespace internal {

/// The parameters of a task's trained modules. Those of the first module have their own names, those of the
/// others the name of their module before them: "conv_in.weight", "log_variance.logvar".
/// @param modules names of the modules to take. Empty: all
TensorMap named_parameters(const Task& task, const std::vector<std::string>& modules = {});

/// Sets requires_grad as `train_only` and `freeze` say. @throws ConfigError naming a pattern that fits no
/// name
void apply_freezing(const TensorMap& parameters, const TrainingConfig& config);

/// Checks everything about the parameters that a training needs, as `freeze` and `train_only` will leave
/// them, and changes nothing. @throws ConfigError
void check_trained_parameters(const Task& task, const TrainingConfig& config);

/// @param trainable requiring a gradient
/// @param parameters the number of all parameters
/// @throws ConfigError if there are none, or of a dtype that cannot be trained, or on several devices
void require_trainable(const std::vector<Tensor>& trainable, std::size_t parameters);

/// The trained parameters of some modules in groups of one learning rate and weight decay, as `lr_factors`,
/// `no_decay` and `no_weight_decay_on_bias_and_norm` say.
std::vector<ParameterGroup> parameter_groups(const Task& task, const TrainingConfig& config,
                                             const std::vector<std::string>& modules);

/// The optimizer's options among the flags.
OptimizerConfig optimizer_config(const TrainingConfig& config);

}  // namespace internal
}  // namespace diffusers
