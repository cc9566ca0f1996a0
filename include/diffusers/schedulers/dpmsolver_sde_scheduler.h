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
  /// Course of the betas: "linear", "scaled_linear" (linear in sqrt(beta)), "squaredcos_cap_v2" (cosine),
  /// "sigmoid" or "laplace".
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kLinear;
  /// Betas in place of a schedule, at least T numbers from 0 to 1. Empty: beta_start, beta_end and
  /// beta_schedule give them.
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
  /// Seed of the Brownian motion; a list has one for each sample. Empty: the first step draws one.
  OneOrMany<int64_t> noise_sampler_seed = {};
  /// How the steps are spread over the training timesteps: "linspace", "leading" or "trailing" (Lin et al.
  /// 2023, table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLinspace;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
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
  /// Python's class name.
  static constexpr std::string_view kClassName = "DPMSolverSDEScheduler";

  /// @param config the fields of Python's constructor
  /// @throws ConfigError naming the field that cannot work
  explicit DPMSolverSDEScheduler(DPMSolverSDESchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  double init_noise_sigma() const override;
  int64_t order() const override { return 2; }

  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep) const override;
  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
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

extern template class ConfiguredScheduler<DPMSolverSDEScheduler, DPMSolverSDESchedulerConfig>;

}  // namespace diffusers
