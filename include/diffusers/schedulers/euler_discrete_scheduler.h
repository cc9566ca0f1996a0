#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `EulerDiscreteScheduler`.
struct EulerDiscreteSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  PredictionType prediction_type = PredictionType::kEpsilon;
  InterpolationType interpolation_type = InterpolationType::kLinear;
  bool use_karras_sigmas = false;
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;
  std::optional<double> sigma_min = std::nullopt;
  std::optional<double> sigma_max = std::nullopt;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  TimestepType timestep_type = TimestepType::kDiscrete;
  int64_t steps_offset = 0;
  bool rescale_betas_zero_snr = false;
  FinalSigmasType final_sigmas_type = FinalSigmasType::kZero;
};

/// Euler's method on the probability-flow ODE in the coordinates of Karras et al. 2022 (arXiv 2206.00364,
/// algorithm 2; with `s_churn` its stochastic form). Feed the model `scale_model_input(x, t)`.
///
/// `interpolation_type` log_linear gives n + 2 sigmas, as in Python; the last is not visited.
class EulerDiscreteScheduler : public SigmaScheduler<EulerDiscreteScheduler, EulerDiscreteSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "EulerDiscreteScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit EulerDiscreteScheduler(EulerDiscreteSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  double init_noise_sigma() const override;

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  /// v = sqrt(abar) eps - sqrt(1 - abar) x_0
  /// @param timesteps `[B]`. Integral: training timesteps. Floating, as Python requires: each one of
  /// `timesteps()`; as in Python, abar is that of its position in the run, not of the timestep.
  Tensor get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const override;
  /// Takes one of num_inference_steps, `.timesteps` and `.sigmas` (one more than steps, ending with the last
  /// level).
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::scale_model_input;
  /// x / sqrt(sigma^2 + 1)
  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep = {}) const override;
  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  bool continuous() const;

  NoiseSchedule schedule_;
};

}  // namespace diffusers
