#pragma once

// What a task writes beside its models.

#include <filesystem>

#include <diffusers/schedulers/scheduler.h>
#include <diffusers/training/saved_module.h>

#include "training/objective/forward_process.h"

namespace diffusers {
inline namespace internal {

/// Draws the shares of signal and noise by timestep.
/// @param path SVG file
void save_noise_schedule_picture(const ForwardProcess::Shares& shares, const std::filesystem::path& path);

/// Writes `model_index.json`, with which Python opens the folder as a pipeline. Writes nothing for a model
/// that no pipeline of Python samples from without other models.
/// @param folder holds `model.name` and `scheduler/`
void save_model_index(const NamedModule& model, const Scheduler& scheduler,
                      const std::filesystem::path& folder);

}  // namespace internal
}  // namespace diffusers
