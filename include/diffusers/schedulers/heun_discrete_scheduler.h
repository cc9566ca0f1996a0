#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `HeunDiscreteScheduler` (schedulers/scheduling_heun_discrete.py), in its order
/// and with its defaults. Fields of a closed set take an enumerator or Python's string.
struct HeunDiscreteSchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// beta of the first training timestep, 0 to 1.
  double beta_start = 0.00085;
  /// beta of the last training timestep, 0 to 1.
  double beta_end = 0.012;
  /// Beta schedule: "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace" or "exp".
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kLinear;
  /// Explicit betas, at least T numbers from 0 to 1. Empty: `beta_start`, `beta_end` and `beta_schedule`
  /// define the betas.
  std::vector<double> trained_betas = {};
  /// Prediction of the model: "epsilon", "sample" or "v_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Spaces the sigmas as Karras et al. 2022, eq. 5, with rho = 7. At most one of the use_..._sigmas may be
  /// set.
  bool use_karras_sigmas = false;
  /// Spaces the sigmas evenly in log(sigma).
  bool use_exponential_sigmas = false;
  /// Spaces the sigmas by quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173).
  bool use_beta_sigmas = false;
  /// Clips the predicted x_0 to [-clip_sample_range, clip_sample_range].
  bool clip_sample = false;
  /// Largest magnitude of a clipped x_0, 0 or more. Read with `clip_sample` only.
  double clip_sample_range = 1.0;
  /// Spacing of the steps over the training timesteps: "linspace", "leading" or "trailing" (Lin et al. 2023,
  /// table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLinspace;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
  int64_t steps_offset = 0;
};

/// Heun's method of order 2 on the probability-flow ODE (Karras et al. 2022, arXiv 2206.00364, algorithm 1):
/// an Euler step, then the same step again with the mean of the slopes at its ends. Each step evaluates the
/// model twice, so `timesteps()` holds 2 n - 1 entries. The model's input is `scale_model_input(x, t)`.
class HeunDiscreteScheduler : public SigmaScheduler<HeunDiscreteScheduler, HeunDiscreteSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "HeunDiscreteScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit HeunDiscreteScheduler(HeunDiscreteSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  double init_noise_sigma() const override;
  int64_t order() const override { return 2; }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  /// Chooses the timesteps of a run.
  /// @param num_inference_steps number of steps; nullopt with `.timesteps`
  /// @param options device, timesteps and num_train_timesteps
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
  Tensor prev_derivative_;  // defined between the two evaluations of a step
  Tensor sample_;
};

extern template class ConfiguredScheduler<HeunDiscreteScheduler, HeunDiscreteSchedulerConfig>;

}  // namespace diffusers
