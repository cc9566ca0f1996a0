#pragma once

// Checks of batches, models and flags that several tasks share.

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>

#include <diffusers/core/tensor.h>
#include <diffusers/data/dataset.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/training/task.h>
#include <diffusers/training/training_config.h>

#include "training/objective/forward_process.h"

namespace diffusers {
inline namespace internal {

/// Checks that a task can divide batches if `cpu_data_parallel` is above 1.
/// @throws ConfigError naming the option, its value and the obstacle
void require_divisible_batches(const BatchSplit& split, int64_t cpu_data_parallel);

/// Checks that the model's time embedding accepts the timesteps of the process. Only the sinusoidal embedding
/// accepts fractional and negative timesteps.
/// @throws ConfigError if it does not
void require_embeddable_times(const DenoiserInfo& model, const ForwardProcess& process);

/// Returns the images of a batch, `[B, C, H, W]`.
/// @throws TensorError for another shape or dtype; ConfigError for another height or width than `resolution`
const Tensor& images_of(const Batch& batch, const std::optional<int64_t>& resolution);

/// Refuses fields of TrainingConfig that a task does not use.
/// @param names names of these fields
/// @param task name of the task, for the message
/// @throws ConfigError naming the first field that was changed from its default
void refuse_flags(const TrainingConfig& config, std::initializer_list<const char*> names,
                  std::string_view task);

}  // namespace internal
}  // namespace diffusers
