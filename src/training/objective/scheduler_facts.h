#pragma once

// What training knows of the classes of schedulers.

#include <optional>

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {
inline namespace internal {

/// The variance preserving process of a scheduler class of this library that has betas.
/// @return none for classes of other libraries, and where `use_flow_sigmas` replaces the betas
std::optional<NoiseSchedule> variance_preserving_schedule(const Scheduler& scheduler);

/// log(sigma) / 4 of each training timestep, float32 `[T]` on the CPU, if those are the timesteps that the
/// model receives (`timestep_type` "continuous"); undefined if it receives training timesteps.
Tensor log_sigma_times(const Scheduler& scheduler);

/// The training timesteps of flow matching, sigma T, from T down, float32 `[T]` on the CPU. Undefined if a
/// class of another library has none.
Tensor flow_timesteps(const Scheduler& scheduler);

}  // namespace internal
}  // namespace diffusers
