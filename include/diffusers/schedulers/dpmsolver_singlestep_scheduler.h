#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `DPMSolverSinglestepScheduler` (schedulers/scheduling_dpmsolver_singlestep.py),
/// in its order and with its defaults. Fields of a closed set take an enumerator or Python's string.
struct DPMSolverSinglestepSchedulerConfig {
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
  /// Integrator: "dpmsolver" or "dpmsolver++", and their stochastic forms "sde-dpmsolver" and
  /// "sde-dpmsolver++". The ++ forms integrate x_0, the others epsilon.
  EnumChoice<AlgorithmType> algorithm_type = AlgorithmType::kDpmsolverPlusPlus;
  /// Form of the second-order terms: "midpoint" or "heun".
  EnumChoice<SolverType> solver_type = SolverType::kMidpoint;
  /// Lowers the order in the last steps. This is required if the number of steps is not a multiple of the
  /// order.
  bool lower_order_final = false;
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
  /// Last sigma of a run: "zero", or "sigma_min" for that of the first training timestep.
  EnumChoice<FinalSigmasType> final_sigmas_type = FinalSigmasType::kZero;
  /// Smallest half log-SNR of a run. Training timesteps below it are skipped. Cosine betas need about -5.1.
  /// The default skips none.
  double lambda_min_clipped = -std::numeric_limits<double>::infinity();
  /// Variance that the model predicts in addition to epsilon: "learned" or "learned_range", which double its
  /// channels. The solver ignores it. None: the model predicts no variance.
  std::optional<EnumChoice<VarianceType>> variance_type = std::nullopt;
  /// Shifts the flow sigmas by `SetTimestepsOptions::mu`, which depends on the image size, instead of
  /// `flow_shift`.
  bool use_dynamic_shifting = false;
  /// How `mu` shifts the sigmas: "exponential" or "linear".
  EnumChoice<TimeShiftType> time_shift_type = TimeShiftType::kExponential;
};

/// DPM-Solver and DPM-Solver++ (Lu et al. 2022, arXiv 2206.00927 and 2211.01095) as singlestep methods. The
/// steps have the orders 1, 2, 3 in turn. Each step starts from the sample at which the last step of order 1
/// started.
///
/// As in Python, `lower_order_final` is switched on if the number of steps is not a multiple of the order or
/// the last sigma is zero.
class DPMSolverSinglestepScheduler
    : public SigmaScheduler<DPMSolverSinglestepScheduler, DPMSolverSinglestepSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "DPMSolverSinglestepScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit DPMSolverSinglestepScheduler(DPMSolverSinglestepSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  /// Chooses the timesteps of a run.
  /// @param num_inference_steps number of steps; nullopt with `.timesteps`
  /// @param options device, timesteps, and mu if `use_dynamic_shifting` is set
  /// @throws ConfigError if a number is out of range or an option is not supported
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  void set_order_list(int64_t num_inference_steps);

  NoiseSchedule schedule_;
  std::vector<Tensor> outputs_;  // the last predictions, newest first
  bool timesteps_set_ = false;
  std::vector<int64_t> order_list_;
  Tensor sample_;  // sample at the start of the last step of order 1
};

extern template class ConfiguredScheduler<DPMSolverSinglestepScheduler, DPMSolverSinglestepSchedulerConfig>;

}  // namespace diffusers
