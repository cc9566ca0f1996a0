#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `EulerDiscreteScheduler` (schedulers/scheduling_euler_discrete.py), in its order
/// and with its defaults. Fields of a closed set take an enumerator or Python's string.
struct EulerDiscreteSchedulerConfig {
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
  /// Prediction of the model: "epsilon", "sample", "original_sample" or "v_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Interpolation of sigmas between training timesteps: "linear" in t, or "log_linear", evenly spaced in
  /// log(sigma).
  EnumChoice<InterpolationType> interpolation_type = InterpolationType::kLinear;
  /// Spaces the sigmas as Karras et al. 2022, eq. 5, with rho = 7. At most one of the use_..._sigmas may be
  /// set.
  bool use_karras_sigmas = false;
  /// Spaces the sigmas evenly in log(sigma).
  bool use_exponential_sigmas = false;
  /// Spaces the sigmas by quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173).
  bool use_beta_sigmas = false;
  /// Smallest sigma of a continuous or respaced run, above 0. None: the smallest sigma of the run.
  std::optional<double> sigma_min = std::nullopt;
  /// Largest sigma of a continuous or respaced run. None: the largest sigma of the run.
  std::optional<double> sigma_max = std::nullopt;
  /// Spacing of the steps over the training timesteps: "linspace", "leading" or "trailing" (Lin et al. 2023,
  /// table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLinspace;
  /// Timestep of the model: "discrete" for training timesteps, "continuous" for log(sigma) / 4. "continuous"
  /// requires `prediction_type` "v_prediction".
  EnumChoice<TimestepType> timestep_type = TimestepType::kDiscrete;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
  int64_t steps_offset = 0;
  /// Rescales the betas so that the last training timestep holds no signal (Lin et al. 2023, algorithm 1).
  bool rescale_betas_zero_snr = false;
  /// Last sigma of a run: "zero", or "sigma_min" for that of the first training timestep.
  EnumChoice<FinalSigmasType> final_sigmas_type = FinalSigmasType::kZero;
};

/// Euler's method on the probability-flow ODE in the coordinates of Karras et al. 2022 (arXiv 2206.00364,
/// algorithm 2; with `s_churn` its stochastic form). The model's input is `scale_model_input(x, t)`.
///
/// `interpolation_type` "log_linear" gives n + 2 sigmas, as in Python. The run does not use the last one.
class EulerDiscreteScheduler : public SigmaScheduler<EulerDiscreteScheduler, EulerDiscreteSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "EulerDiscreteScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit EulerDiscreteScheduler(EulerDiscreteSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  bool has_continuous_timesteps() const override;
  double init_noise_sigma() const override;

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  /// Computes the target of v-prediction: v = sqrt(abar) eps - sqrt(1 - abar) x_0.
  /// @param sample x_0 `[B, ...]`, floating
  /// @param noise eps, shape, dtype and device of x_0
  /// @param timesteps `[B]`. Integral values are training timesteps. Floating values must be in
  ///   `timesteps()`; their abar is that of the position in the run, not of the timestep, as in Python.
  /// @return v, shape and dtype of x_0
  /// @throws TensorError on a shape, dtype or range mismatch
  Tensor get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  /// Chooses the timesteps of a run.
  /// @param num_inference_steps number of steps; nullopt with `.timesteps` or `.sigmas`
  /// @param options device, and timesteps or sigmas. `.sigmas` has one more element than the run has steps:
  ///   the last one is the final noise level.
  /// @throws ConfigError if a number is out of range or an option is not supported
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
  NoiseSchedule schedule_;
};

extern template class ConfiguredScheduler<EulerDiscreteScheduler, EulerDiscreteSchedulerConfig>;

}  // namespace diffusers
