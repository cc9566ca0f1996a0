#pragma once

// The files that a task writes besides its models.

#include <filesystem>

#include <diffusers/schedulers/scheduler.h>
#include <diffusers/training/saved_module.h>

#include "training/objective/forward_process.h"

namespace diffusers {
inline namespace internal {

/// Writes a chart of signal and noise by timestep.
/// @param path SVG file
void save_noise_schedule_picture(const ForwardProcess::Shares& shares, const std::filesystem::path& path);

/// Writes `model_index.json`, so that Python opens the folder as a pipeline. It writes nothing if no pipeline
/// of Python can sample from the model alone.
/// @param folder folder with `model.name` and `scheduler/`
void save_model_index(const NamedModule& model, const Scheduler& scheduler,
                      const std::filesystem::path& folder);

}  // namespace internal
}  // namespace diffusers
