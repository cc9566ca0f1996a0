#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `DPMSolverMultistepScheduler`.
struct DPMSolverMultistepSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  int64_t solver_order = 2;
  PredictionType prediction_type = PredictionType::kEpsilon;
  bool thresholding = false;
  double dynamic_thresholding_ratio = 0.995;
  double sample_max_value = 1.0;
  AlgorithmType algorithm_type = AlgorithmType::kDpmsolverPlusPlus;
  SolverType solver_type = SolverType::kMidpoint;
  bool lower_order_final = true;
  bool euler_at_final = false;
  bool use_karras_sigmas = false;
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;
  bool use_lu_lambdas = false;
  bool use_flow_sigmas = false;
  double flow_shift = 1.0;
  FinalSigmasType final_sigmas_type = FinalSigmasType::kZero;
  double lambda_min_clipped = -std::numeric_limits<double>::infinity();
  std::optional<VarianceType> variance_type = std::nullopt;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  int64_t steps_offset = 0;
  bool rescale_betas_zero_snr = false;
  bool use_dynamic_shifting = false;
  TimeShiftType time_shift_type = TimeShiftType::kExponential;
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
  static constexpr std::string_view kClassName = "DPMSolverMultistepScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit DPMSolverMultistepScheduler(DPMSolverMultistepSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
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

}  // namespace diffusers
