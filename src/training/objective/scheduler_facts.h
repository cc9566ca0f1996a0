#pragma once

// Facts of the scheduler classes that training depends on.

#include <optional>

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {
inline namespace internal {

/// Returns the variance preserving process of a scheduler class of this library that has betas.
/// @return none for other classes, and if `use_flow_sigmas` replaces the betas
std::optional<NoiseSchedule> variance_preserving_schedule(const Scheduler& scheduler);

/// Returns log(sigma) / 4 of each training timestep, float32 `[T]` on the CPU, if the model receives these as
/// timesteps (`timestep_type` "continuous"). Undefined: the model receives training timesteps.
Tensor log_sigma_times(const Scheduler& scheduler);

/// Returns the training timesteps of flow matching, sigma T, from T down, float32 `[T]` on the CPU.
/// Undefined: a class of the program has none.
Tensor flow_timesteps(const Scheduler& scheduler);

}  // namespace internal
}  // namespace diffusers
