#pragma once

// Facts of schedulers that pipelines depend on.

#include <memory>

#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// True for the classes to which Python's pipelines pass eta.
bool takes_eta(const Scheduler& scheduler);

/// True for flow matching, whose noise is added by `scale_noise` instead of `add_noise`.
bool adds_noise_by_scale_noise(const Scheduler& scheduler);

/// A copy with `steps_offset` 1 and without `clip_sample`: Python's Stable Diffusion pipelines correct
/// configs from before these keys existed.
std::unique_ptr<Scheduler> scheduler_for_latents(const Scheduler& scheduler);

}  // namespace diffusers
