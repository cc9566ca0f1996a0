#pragma once

// Corrections of schedulers that pipelines make.

#include <memory>

#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// A copy with `steps_offset` 1 and without `clip_sample`: Python's Stable Diffusion pipelines correct
/// configs from before these keys existed.
std::unique_ptr<Scheduler> scheduler_for_latents(const Scheduler& scheduler);

}  // namespace diffusers
