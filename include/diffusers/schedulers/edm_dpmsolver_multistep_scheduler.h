#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `EDMDPMSolverMultistepScheduler`
/// (schedulers/scheduling_edm_dpmsolver_multistep.py), in its order and with its defaults. Fields of a closed
/// set take an enumerator or Python's string.
struct EDMDPMSolverMultistepSchedulerConfig {
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
  /// Order of the solver, 1 to 3. Use 2 for guided sampling, 3 for unconditional sampling.
  int64_t solver_order = 2;
  /// Dynamic thresholding of the predicted x_0 (Saharia et al. 2022, section 2.3). For pixel models, not for
  /// latents.
  bool thresholding = false;
  /// Quantile of the magnitudes to which `thresholding` clips, 0 to 1.
  double dynamic_thresholding_ratio = 0.995;
  /// Largest threshold of `thresholding`, above 0.
  double sample_max_value = 1.0;
  /// Integrator: "dpmsolver++", or "sde-dpmsolver++" for its stochastic form.
  EnumChoice<AlgorithmType> algorithm_type = AlgorithmType::kDpmsolverPlusPlus;
  /// Form of the second-order terms: "midpoint" or "heun".
  EnumChoice<SolverType> solver_type = SolverType::kMidpoint;
  /// Lowers the order in the last steps, which stabilises runs of fewer than 15 steps.
  bool lower_order_final = true;
  /// Takes the last step with order 1, which stabilises the stochastic solvers in few steps.
  bool euler_at_final = false;
  /// Last sigma of a run: "zero", or "sigma_min" for that of the first training timestep.
  EnumChoice<FinalSigmasType> final_sigmas_type = FinalSigmasType::kZero;
};

/// DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) for the preconditioned models of EDM (Karras et al. 2022,
/// arXiv 2206.00364, table 1). The input of the model is c_in x; its timestep is c_noise = log(sigma) / 4.
class EDMDPMSolverMultistepScheduler
    : public SigmaScheduler<EDMDPMSolverMultistepScheduler, EDMDPMSolverMultistepSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "EDMDPMSolverMultistepScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit EDMDPMSolverMultistepScheduler(EDMDPMSolverMultistepSchedulerConfig config = {});

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

 private:
  std::vector<Tensor> outputs_;  // the last predictions, newest first
  bool timesteps_set_ = false;
};

extern template class ConfiguredScheduler<EDMDPMSolverMultistepScheduler,
                                          EDMDPMSolverMultistepSchedulerConfig>;

}  // namespace diffusers
