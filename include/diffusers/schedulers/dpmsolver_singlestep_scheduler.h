#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `DPMSolverSinglestepScheduler`.
struct DPMSolverSinglestepSchedulerConfig {
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
  bool lower_order_final = false;
  bool use_karras_sigmas = false;
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;
  bool use_flow_sigmas = false;
  double flow_shift = 1.0;
  FinalSigmasType final_sigmas_type = FinalSigmasType::kZero;
  double lambda_min_clipped = -std::numeric_limits<double>::infinity();
  std::optional<VarianceType> variance_type = std::nullopt;
  bool use_dynamic_shifting = false;
  TimeShiftType time_shift_type = TimeShiftType::kExponential;
};

/// DPM-Solver and DPM-Solver++ (Lu et al. 2022, arXiv 2206.00927 and 2211.01095) as singlestep methods: steps
/// of order 1, 2, 3 in turn, each starting over from the sample where the order was 1.
///
/// As in Python, `lower_order_final` is switched on where the number of steps is no multiple of the order or
/// the last sigma is zero.
class DPMSolverSinglestepScheduler
    : public SigmaScheduler<DPMSolverSinglestepScheduler, DPMSolverSinglestepSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "DPMSolverSinglestepScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit DPMSolverSinglestepScheduler(DPMSolverSinglestepSchedulerConfig config = {});

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
  void set_order_list(int64_t num_inference_steps);

  NoiseSchedule schedule_;
  std::vector<Tensor> outputs_;  // the last predictions, newest first
  bool timesteps_set_ = false;
  std::vector<int64_t> order_list_;
  Tensor sample_;  // where the last step of order 1 started
};

}  // namespace diffusers
