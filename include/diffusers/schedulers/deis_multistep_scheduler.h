#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `DEISMultistepScheduler`.
struct DEISMultistepSchedulerConfig {
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
  AlgorithmType algorithm_type = AlgorithmType::kDeis;
  SolverType solver_type = SolverType::kLogrho;
  bool lower_order_final = true;
  bool use_karras_sigmas = false;
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;
  bool use_flow_sigmas = false;
  double flow_shift = 1.0;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  int64_t steps_offset = 0;
  bool use_dynamic_shifting = false;
  TimeShiftType time_shift_type = TimeShiftType::kExponential;
};

/// Diffusion exponential integrator sampler (Zhang and Chen 2022, arXiv 2204.13902) in its log-rho form: the
/// polynomial through the last predictions is integrated exactly in rho = sigma / alpha. Orders 1 to 3.
class DEISMultistepScheduler : public SigmaScheduler<DEISMultistepScheduler, DEISMultistepSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "DEISMultistepScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit DEISMultistepScheduler(DEISMultistepSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
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
