#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `LMSDiscreteScheduler` (schedulers/scheduling_lms_discrete.py), in its order and
/// with its defaults. Fields of a closed set take an enumerator or Python's string.
struct LMSDiscreteSchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// beta of the first training timestep, 0 to 1.
  double beta_start = 0.0001;
  /// beta of the last training timestep, 0 to 1.
  double beta_end = 0.02;
  /// Beta schedule: "linear", "scaled_linear" (linear in sqrt(beta)), "squaredcos_cap_v2" (cosine), "sigmoid"
  /// or "laplace".
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kLinear;
  /// Explicit betas, at least T numbers from 0 to 1. Empty: `beta_start`, `beta_end` and `beta_schedule`
  /// define the betas.
  std::vector<double> trained_betas = {};
  /// Spaces the sigmas as Karras et al. 2022, eq. 5, with rho = 7. At most one of the use_..._sigmas may be
  /// set.
  bool use_karras_sigmas = false;
  /// Spaces the sigmas evenly in log(sigma).
  bool use_exponential_sigmas = false;
  /// Spaces the sigmas by quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173).
  bool use_beta_sigmas = false;
  /// Prediction of the model: "epsilon", "sample" or "v_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Spacing of the steps over the training timesteps: "linspace", "leading" or "trailing" (Lin et al. 2023,
  /// table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLinspace;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
  int64_t steps_offset = 0;
};

/// Linear multistep method of order 4 on the probability-flow ODE of Karras et al. 2022 (k-diffusion's
/// `sample_lms`): it integrates the polynomial through the last derivatives exactly. The model's input is
/// `scale_model_input(x, t)`.
class LMSDiscreteScheduler : public SigmaScheduler<LMSDiscreteScheduler, LMSDiscreteSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "LMSDiscreteScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit LMSDiscreteScheduler(LMSDiscreteSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  double init_noise_sigma() const override;

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::scale_model_input;
  /// Returns x / sqrt(sigma^2 + 1), the model's input.
  /// @param sample x_t `[B, ...]`
  /// @param timestep 0-dim or `[1]`, one of `timesteps()`
  /// @return the model's input, shape of the sample
  /// @throws TensorError if the timestep is unknown
  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep = {}) const override;
  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  double coefficient(int64_t order, int64_t step, int64_t which) const;

  NoiseSchedule schedule_;
  std::vector<Tensor> derivatives_;  // the last four, oldest first
};

extern template class ConfiguredScheduler<LMSDiscreteScheduler, LMSDiscreteSchedulerConfig>;

}  // namespace diffusers
