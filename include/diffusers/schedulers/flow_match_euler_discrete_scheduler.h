#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `FlowMatchEulerDiscreteScheduler`
/// (schedulers/scheduling_flow_match_euler_discrete.py), in its order and with its defaults. Fields of a
/// closed set take an enumerator or Python's string.
struct FlowMatchEulerDiscreteSchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// Shift s of the sigmas: s sigma / (1 + (s - 1) sigma), above 0. 1 means no shift. Stable Diffusion 3 uses
  /// 3.
  double shift = 1.0;
  /// Shifts the sigmas by `SetTimestepsOptions::mu`, which depends on the image size, instead of `shift`.
  bool use_dynamic_shifting = false;
  /// `mu` of an image of `base_image_seq_len` tokens. The scheduler stores it for the caller, who computes
  /// `mu`.
  std::optional<double> base_shift = 0.5;
  /// `mu` of an image of `max_image_seq_len` tokens. The scheduler stores it for the caller, who computes
  /// `mu`.
  std::optional<double> max_shift = 1.15;
  /// Number of tokens at which `mu` is `base_shift`.
  int64_t base_image_seq_len = 256;
  /// Number of tokens at which `mu` is `max_shift`.
  int64_t max_image_seq_len = 4096;
  /// Makes the sigmas ascend from 0 to 1, for models whose time runs from noise to data.
  bool invert_sigmas = false;
  /// Last sigma before the end of the run, below 1. The shifted sigmas are stretched to it. None: no
  /// stretching.
  std::optional<double> shift_terminal = std::nullopt;
  /// Spaces the sigmas as Karras et al. 2022, eq. 5, with rho = 7. At most one of the use_..._sigmas may be
  /// set.
  bool use_karras_sigmas = false;
  /// Spaces the sigmas evenly in log(sigma).
  bool use_exponential_sigmas = false;
  /// Spaces the sigmas by quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173).
  bool use_beta_sigmas = false;
  /// How `mu` shifts the sigmas: "exponential" or "linear".
  EnumChoice<TimeShiftType> time_shift_type = TimeShiftType::kExponential;
  /// Adds new noise to the predicted x_0 in every step instead of following the ODE.
  bool stochastic_sampling = false;
};

/// Euler's method for flow matching and rectified flow (Esser et al. 2024, arXiv 2403.03206): x_sigma = (1 -
/// sigma) x_0 + sigma eps, and the model predicts eps - x_0. Timesteps are T sigma. `shift` shifts the
/// schedule towards noise. With `use_dynamic_shifting`, `mu` of `set_timesteps` does so instead.
class FlowMatchEulerDiscreteScheduler
    : public SigmaScheduler<FlowMatchEulerDiscreteScheduler, FlowMatchEulerDiscreteSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "FlowMatchEulerDiscreteScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit FlowMatchEulerDiscreteScheduler(FlowMatchEulerDiscreteSchedulerConfig config = {});

  PredictionType prediction_type() const override { return PredictionType::kFlowPrediction; }
  ForwardProcessType forward_process() const override { return ForwardProcessType::kFlowMatching; }
  bool has_scale_noise() const override { return true; }

  /// Returns the shift that the next `set_timesteps` uses.
  double shift() const { return shift_; }
  /// Sets the shift that the next `set_timesteps` uses. The config does not change.
  /// @param shift new shift, above 0
  void set_shift(double shift) { shift_ = shift; }

  /// Adds noise to clean samples: (1 - sigma) x_0 + sigma eps.
  /// @param sample x_0 `[B, ...]`, floating
  /// @param timestep one for each sample, `[B]`
  /// @param noise eps, shape of x_0
  /// @return x_sigma, shape of x_0
  /// @throws TensorError on a mismatch or an unknown timestep
  Tensor scale_noise(const Tensor& sample, const Tensor& timestep, const Tensor& noise) const override;
  using Scheduler::set_timesteps;
  /// Chooses the timesteps of a run.
  /// @param num_inference_steps number of steps; nullopt with `.sigmas` or `.timesteps`
  /// @param options device, sigmas, timesteps, and mu for dynamic shifting. Sigmas and timesteps must have
  ///   equal length if both are given.
  /// @throws ConfigError if a number is out of range or lengths differ
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;
  /// Runs a step with one timestep for each token of the sample.
  /// @param model_output prediction of the model, `[B, N, C]`
  /// @param timestep one of `timesteps()`
  /// @param sample x_t `[B, N, C]`
  /// @param per_token_timesteps `[B, N]`
  /// @param options generator
  /// @return prev_sample
  /// @throws TensorError on a shape mismatch or an unknown timestep
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const Tensor& per_token_timesteps, const StepOptions& options = {});

 private:
  Tensor stochastic_or_euler(const Tensor& model_output, const Tensor& sample, const Tensor& sigma,
                             const Tensor& sigma_next, const Tensor& dt, const StepOptions& options) const;

  double shift_ = 1.0;
  double sigma_min_ = 0.0;
  double sigma_max_ = 1.0;
};

extern template class ConfiguredScheduler<FlowMatchEulerDiscreteScheduler,
                                          FlowMatchEulerDiscreteSchedulerConfig>;

}  // namespace diffusers
