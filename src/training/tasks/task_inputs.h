#pragma once

// Checks of batches, models and flags that several tasks share.

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>

#include <diffusers/core/tensor.h>
#include <diffusers/data/dataset.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/training/training_config.h>

#include "training/objective/forward_process.h"

namespace diffusers {
inline namespace internal {

/// Checks that the model has no dropout, for `cpu_data_parallel` above 1. The order of dropout's random
/// numbers would depend on the threads.
/// @throws ConfigError if the model has dropout
void require_no_dropout(const DenoiserInfo& model, int64_t cpu_data_parallel);

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
