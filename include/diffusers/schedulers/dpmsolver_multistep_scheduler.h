#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `DPMSolverMultistepScheduler` (schedulers/scheduling_dpmsolver_multistep.py), in
/// its order and with its defaults. Fields of a closed set take an enumerator or Python's string.
struct DPMSolverMultistepSchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// beta of the first training timestep, 0 to 1.
  double beta_start = 0.0001;
  /// beta of the last training timestep, 0 to 1.
  double beta_end = 0.02;
  /// Course of the betas: "linear", "scaled_linear" (linear in sqrt(beta)), "squaredcos_cap_v2" (cosine),
  /// "sigmoid" or "laplace".
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kLinear;
  /// Betas in place of a schedule, at least T numbers from 0 to 1. Empty: beta_start, beta_end and
  /// beta_schedule give them.
  std::vector<double> trained_betas = {};
  /// Order of the solver, 1 to 3. Use 2 for guided sampling, 3 for unconditional sampling.
  int64_t solver_order = 2;
  /// Prediction of the model: "epsilon", "sample", "v_prediction" or "flow_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Dynamic thresholding of the predicted x_0 (Saharia et al. 2022, section 2.3). Not for latents.
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
  /// Lowers the order in the last steps, which stabilises runs of fewer than 15 steps.
  bool lower_order_final = true;
  /// Takes the last step with order 1, which stabilises the stochastic solvers in few steps.
  bool euler_at_final = false;
  /// Spaces the sigmas as Karras et al. 2022, eq. 5, with rho = 7. At most one of the use_..._sigmas may be
  /// set.
  bool use_karras_sigmas = false;
  /// Spaces the sigmas evenly in log(sigma).
  bool use_exponential_sigmas = false;
  /// Spaces the sigmas by quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173).
  bool use_beta_sigmas = false;
  /// Spaces the steps evenly in the half log-SNR (Lu et al. 2022, DPM-Solver).
  bool use_lu_lambdas = false;
  /// Takes the sigmas of flow matching in place of those of the betas.
  bool use_flow_sigmas = false;
  /// Shift s of the flow sigmas: s sigma / (1 + (s - 1) sigma), above 0. Read with `use_flow_sigmas` only; 1
  /// shifts nothing.
  double flow_shift = 1.0;
  /// Last sigma of a run: "zero", or "sigma_min" for that of the first training timestep.
  EnumChoice<FinalSigmasType> final_sigmas_type = FinalSigmasType::kZero;
  /// Training timesteps with a half log-SNR below this are left out. Cosine betas need about -5.1; the
  /// default leaves out none.
  double lambda_min_clipped = -std::numeric_limits<double>::infinity();
  /// Variance that the model predicts beside epsilon: "learned" or "learned_range" double its channels. The
  /// solver uses epsilon alone. None: the model predicts none.
  std::optional<EnumChoice<VarianceType>> variance_type = std::nullopt;
  /// How the steps are spread over the training timesteps: "linspace", "leading" or "trailing" (Lin et al.
  /// 2023, table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLinspace;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
  int64_t steps_offset = 0;
  /// Rescales the betas so that the last training timestep holds no signal (Lin et al. 2023, algorithm 1).
  bool rescale_betas_zero_snr = false;
  /// Shifts the flow sigmas by `SetTimestepsOptions::mu`, which depends on the image size, in place of a
  /// constant.
  bool use_dynamic_shifting = false;
  /// How `mu` shifts the sigmas: "exponential" or "linear".
  EnumChoice<TimeShiftType> time_shift_type = TimeShiftType::kExponential;
};

/// DPM-Solver and DPM-Solver++ (Lu et al. 2022, arXiv 2206.00927 and 2211.01095) as multistep methods of
/// order 1 to 3, and their stochastic forms of order 1 and 2 (sde-dpmsolver++ also 3). Every step must be one
/// of `timesteps()`, in order.
///
/// `add_noise` gives every training timestep its own noise level also before `set_timesteps`, where Python's
/// is wrong.
class DPMSolverMultistepScheduler
    : public SigmaScheduler<DPMSolverMultistepScheduler, DPMSolverMultistepSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "DPMSolverMultistepScheduler";

  /// @param config the fields of Python's constructor
  /// @throws ConfigError naming the field that cannot work
  explicit DPMSolverMultistepScheduler(DPMSolverMultistepSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  /// Takes num_inference_steps or `.timesteps`; `.mu` shifts flow sigmas where use_dynamic_shifting is set.
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

extern template class ConfiguredScheduler<DPMSolverMultistepScheduler, DPMSolverMultistepSchedulerConfig>;

}  // namespace diffusers
