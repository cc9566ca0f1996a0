#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <diffusers/core/one_or_many.h>
#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `DPMSolverSDEScheduler`.
struct DPMSolverSDESchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.00085;
  double beta_end = 0.012;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  PredictionType prediction_type = PredictionType::kEpsilon;
  bool use_karras_sigmas = false;
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;
  /// None: a seed is drawn. A list has one for each sample of the batch.
  OneOrMany<int64_t> noise_sampler_seed = {};
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  int64_t steps_offset = 0;
};

/// The stochastic sampler of DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) with a midpoint at every step,
/// as k-diffusion's `sample_dpmpp_sde` has it: two evaluations of the model a step.
///
/// The noise is a Brownian motion over sigma, so runs of different step counts follow the same path. With a
/// `noise_sampler_seed` it is that of Python with torchsde, number by number. Without one, the first step
/// draws a seed: from the generator that it is given, else, like Python, from the global one.
class DPMSolverSDEScheduler : public SigmaScheduler<DPMSolverSDEScheduler, DPMSolverSDESchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "DPMSolverSDEScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit DPMSolverSDEScheduler(DPMSolverSDESchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  double init_noise_sigma() const override;
  int64_t order() const override { return 2; }

  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep) const override;
  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  /// `timesteps()` holds every step after the first twice: its midpoint and its end.
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  /// Options: s_noise; generator, which serves to draw the seed.
  /// @return prev_sample and pred_original_sample
  /// @throws TensorError on a wrong shape or timestep, or where there are not as many seeds as samples
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  class NoiseSampler;

  NoiseSchedule schedule_;
  std::shared_ptr<const NoiseSampler> noise_sampler_;  // made by the first step of a run
  Tensor sample_;  // where the step began; undefined unless at its midpoint
  float middle_sigma_ = 0;
};

}  // namespace diffusers
