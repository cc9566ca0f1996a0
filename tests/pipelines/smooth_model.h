#pragma once

// A model and a scheduler for tests of the sampling loop.

#include <cstdint>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/pipelines/sampling_loop.h>
#include <diffusers/schedulers/ddim_scheduler.h>

#include <ATen/ATen.h>

namespace diffusers::test {

inline const std::vector<int64_t> kLoopShape{2, 3, 4, 4};

/// Returns noise of the shape.
inline Tensor drawn(uint64_t seed) { return randn_tensor(kLoopShape, make_generator(seed)); }

/// A smooth function of sample and timestep.
inline Tensor smooth_model(const Tensor& sample, const Tensor& t) {
  return 0.4 * sample + 0.3 * (sample * 1.7 + t.to(at::kFloat) * 0.003).sin();
}

/// Returns the scheduler of latent-diffusion with `n` timesteps set.
inline DDIMScheduler latent_ddim(bool quadratic, int64_t n = 10) {
  DDIMScheduler scheduler({.beta_start = 0.0015,
                           .beta_end = 0.0195,
                           .beta_schedule = BetaSchedule::kScaledLinear,
                           .clip_sample = false,
                           .set_alpha_to_one = false});
  if (quadratic) {
    scheduler.set_timesteps(std::nullopt, {.timesteps = quadratic_timesteps(1000, n)});
  } else {
    scheduler.set_timesteps(n);
  }
  return scheduler;
}

}  // namespace diffusers::test
