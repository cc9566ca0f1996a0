#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `DEISMultistepScheduler` (schedulers/scheduling_deis_multistep.py), in its order
/// and with its defaults. Fields of a closed set take an enumerator or Python's string.
struct DEISMultistepSchedulerConfig {
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
  /// Order of the solver, 1 to 3. Use 2 for guided sampling, 3 for unconditional sampling.
  int64_t solver_order = 2;
  /// Prediction of the model: "epsilon", "sample", "v_prediction" or "flow_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Dynamic thresholding of the predicted x_0 (Saharia et al. 2022, section 2.3). For pixel models, not for
  /// latents.
  bool thresholding = false;
  /// Quantile of the magnitudes to which `thresholding` clips, 0 to 1.
  double dynamic_thresholding_ratio = 0.995;
  /// Largest threshold of `thresholding`, above 0.
  double sample_max_value = 1.0;
  /// Integrator; only "deis". Those of other solvers become "deis", as in Python.
  EnumChoice<AlgorithmType> algorithm_type = AlgorithmType::kDeis;
  /// Form of the multistep formula; only "logrho". Those of other solvers become "logrho", as in Python.
  EnumChoice<SolverType> solver_type = SolverType::kLogrho;
  /// Lowers the order in the last steps, which stabilises runs of fewer than 15 steps.
  bool lower_order_final = true;
  /// Spaces the sigmas as Karras et al. 2022, eq. 5, with rho = 7. At most one of the use_..._sigmas may be
  /// set.
  bool use_karras_sigmas = false;
  /// Spaces the sigmas evenly in log(sigma).
  bool use_exponential_sigmas = false;
  /// Spaces the sigmas by quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173).
  bool use_beta_sigmas = false;
  /// Uses the sigmas of flow matching instead of those of the betas.
  bool use_flow_sigmas = false;
  /// Shift s of the flow sigmas: s sigma / (1 + (s - 1) sigma), above 0. Read with `use_flow_sigmas` only; 1
  /// means no shift.
  double flow_shift = 1.0;
  /// Spacing of the steps over the training timesteps: "linspace", "leading" or "trailing" (Lin et al. 2023,
  /// table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLinspace;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
  int64_t steps_offset = 0;
  /// Shifts the flow sigmas by `SetTimestepsOptions::mu`, which depends on the image size, instead of
  /// `flow_shift`.
  bool use_dynamic_shifting = false;
  /// How `mu` shifts the sigmas: "exponential" or "linear".
  EnumChoice<TimeShiftType> time_shift_type = TimeShiftType::kExponential;
};

/// Diffusion exponential integrator sampler (Zhang and Chen 2022, arXiv 2204.13902) in its log-rho form: the
/// polynomial through the last predictions is integrated exactly in rho = sigma / alpha. Orders 1 to 3.
class DEISMultistepScheduler : public SigmaScheduler<DEISMultistepScheduler, DEISMultistepSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "DEISMultistepScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit DEISMultistepScheduler(DEISMultistepSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  NoiseSchedule schedule_;
  std::vector<Tensor> outputs_;  // the last predictions, newest first
  bool timesteps_set_ = false;
};

extern template class ConfiguredScheduler<DEISMultistepScheduler, DEISMultistepSchedulerConfig>;

}  // namespace diffusers
