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

/// @throws ConfigError if the model draws random numbers, whose order depends on the threads that compute the
/// parts of a batch
void require_no_dropout(const DenoiserInfo& model, int64_t cpu_data_parallel);

/// @throws ConfigError if the process gives the model timesteps that its time embedding does not accept.
/// Other embeddings than the sinusoidal one accept positive or whole numbers only
void require_embeddable_times(const DenoiserInfo& model, const ForwardProcess& process);

/// @return the images of a batch, `[B, C, H, W]`
/// @throws TensorError if they are anything else, ConfigError if they are not of `resolution`
const Tensor& images_of(const Batch& batch, const std::optional<int64_t>& resolution);

/// @param names fields of TrainingConfig that a task does not use
/// @param task name of the task, for the message
/// @throws ConfigError naming the first of them that was changed
void refuse_flags(const TrainingConfig& config, std::initializer_list<const char*> names,
                  std::string_view task);

}  // namespace internal
}  // namespace diffusers
