#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <diffusers/core/one_or_many.h>
#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `DPMSolverSDEScheduler` (schedulers/scheduling_dpmsolver_sde.py), in its order
/// and with its defaults. Fields of a closed set take an enumerator or Python's string.
struct DPMSolverSDESchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// beta of the first training timestep, 0 to 1.
  double beta_start = 0.00085;
  /// beta of the last training timestep, 0 to 1.
  double beta_end = 0.012;
  /// Beta schedule: "linear", "scaled_linear" (linear in sqrt(beta)), "squaredcos_cap_v2" (cosine), "sigmoid"
  /// or "laplace".
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kLinear;
  /// Explicit betas, at least T numbers from 0 to 1. Empty: `beta_start`, `beta_end` and `beta_schedule`
  /// define the betas.
  std::vector<double> trained_betas = {};
  /// Prediction of the model: "epsilon" or "v_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Spaces the sigmas as Karras et al. 2022, eq. 5, with rho = 7. At most one of the use_..._sigmas may be
  /// set.
  bool use_karras_sigmas = false;
  /// Spaces the sigmas evenly in log(sigma).
  bool use_exponential_sigmas = false;
  /// Spaces the sigmas by quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173).
  bool use_beta_sigmas = false;
  /// Seed of the Brownian motion. A list has one seed for each sample. Empty: the first step draws a seed.
  OneOrMany<int64_t> noise_sampler_seed = {};
  /// Spacing of the steps over the training timesteps: "linspace", "leading" or "trailing" (Lin et al. 2023,
  /// table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLinspace;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
  int64_t steps_offset = 0;
};

/// The stochastic sampler of DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) with a midpoint in every step,
/// as in k-diffusion's `sample_dpmpp_sde`. Each step evaluates the model twice.
///
/// The noise is a Brownian motion over sigma, so runs with different numbers of steps follow the same path.
/// With a `noise_sampler_seed` the numbers equal those of Python with torchsde. Without one, the first step
/// draws a seed from `StepOptions::generator`, or from the global generator, as in Python.
class DPMSolverSDEScheduler : public SigmaScheduler<DPMSolverSDEScheduler, DPMSolverSDESchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "DPMSolverSDEScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit DPMSolverSDEScheduler(DPMSolverSDESchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  double init_noise_sigma() const override;
  int64_t order() const override { return 2; }

  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep) const override;
  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  /// Chooses the timesteps of a run. `timesteps()` holds two entries for every step after the first: its
  /// midpoint and its end.
  /// @param num_inference_steps number of steps
  /// @param options device and num_train_timesteps
  /// @throws ConfigError if a number is out of range or an option is not supported
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  /// Runs one of the two stages of a step.
  /// @param model_output prediction of the model, shape of the sample
  /// @param timestep 0-dim or `[1]`, one of `timesteps()`
  /// @param sample x_t `[B, ...]`
  /// @param options s_noise, and generator, which draws the seed
  /// @return prev_sample and pred_original_sample
  /// @throws TensorError on a wrong shape or timestep, or if the number of seeds differs from the number of
  ///   samples
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  class NoiseSampler;

  NoiseSchedule schedule_;
  std::shared_ptr<const NoiseSampler> noise_sampler_;  // made by the first step of a run
  Tensor sample_;                                      // start of the step; undefined unless at its midpoint
  float middle_sigma_ = 0;
};

extern template class ConfiguredScheduler<DPMSolverSDEScheduler, DPMSolverSDESchedulerConfig>;

}  // namespace diffusers
