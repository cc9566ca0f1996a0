#pragma once

#include <cstdint>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `EDMEulerScheduler` (schedulers/scheduling_edm_euler.py), in its order and with
/// its defaults. Fields of a closed set take an enumerator or Python's string.
struct EDMEulerSchedulerConfig {
  /// Smallest noise level of a run, above 0.
  double sigma_min = 0.002;
  /// Largest noise level of a run, above `sigma_min`.
  double sigma_max = 80.0;
  /// Standard deviation of the training data, above 0 (Karras et al. 2022, table 1).
  double sigma_data = 0.5;
  /// Spacing of the sigmas: "karras" or "exponential".
  EnumChoice<SigmaScheduleType> sigma_schedule = SigmaScheduleType::kKarras;
  /// Number of noise levels before `set_timesteps`, 1 or more.
  int64_t num_train_timesteps = 1000;
  /// Prediction of the model: "epsilon" or "v_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Exponent of the Karras spacing: larger values put more steps at low noise (Karras et al. 2022, eq. 5).
  double rho = 7.0;
  /// Last sigma of a run: "zero", or "sigma_min" for that of the first training timestep.
  EnumChoice<FinalSigmasType> final_sigmas_type = FinalSigmasType::kZero;
};

/// The Euler sampler of EDM (Karras et al. 2022, arXiv 2206.00364, algorithm 2) with its preconditioning
/// (table 1). The input of the model is c_in x; its timestep is c_noise = log(sigma) / 4. Every timestep
/// argument must be one of `timesteps()`.
class EDMEulerScheduler : public SigmaScheduler<EDMEulerScheduler, EDMEulerSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "EDMEulerScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit EDMEulerScheduler(EDMEulerSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kPreconditioned; }

  double init_noise_sigma() const override;

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::scale_model_input;
  /// Returns c_in x with c_in = 1 / sqrt(sigma^2 + sigma_data^2), the model's input.
  /// @param sample x_t `[B, ...]`
  /// @param timestep 0-dim or `[1]`, one of `timesteps()`
  /// @return the model's input, shape of the sample
  /// @throws TensorError if the timestep is unknown
  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep = {}) const override;
  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;
  /// Runs a step with an x_0 from the caller, such as a guided or clipped prediction.
  /// @param model_output prediction of the model, shape of the sample
  /// @param timestep one of `timesteps()`
  /// @param sample x_t
  /// @param pred_original_sample x_0, shape of the sample
  /// @param options s_churn, s_tmin, s_tmax, s_noise and generator
  /// @return prev_sample and pred_original_sample
  /// @throws TensorError on a shape mismatch or an unknown timestep
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const Tensor& pred_original_sample, const StepOptions& options = {});

 private:
  SigmaRun run_at(const Tensor& ramp, at::Device device) const;
};

extern template class ConfiguredScheduler<EDMEulerScheduler, EDMEulerSchedulerConfig>;

}  // namespace diffusers
