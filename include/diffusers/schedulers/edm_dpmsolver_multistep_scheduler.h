#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `EDMDPMSolverMultistepScheduler`.
struct EDMDPMSolverMultistepSchedulerConfig {
  double sigma_min = 0.002;
  double sigma_max = 80.0;
  double sigma_data = 0.5;
  SigmaScheduleType sigma_schedule = SigmaScheduleType::kKarras;
  int64_t num_train_timesteps = 1000;
  PredictionType prediction_type = PredictionType::kEpsilon;
  double rho = 7.0;
  int64_t solver_order = 2;
  bool thresholding = false;
  double dynamic_thresholding_ratio = 0.995;
  double sample_max_value = 1.0;
  AlgorithmType algorithm_type = AlgorithmType::kDpmsolverPlusPlus;
  SolverType solver_type = SolverType::kMidpoint;
  bool lower_order_final = true;
  bool euler_at_final = false;
  FinalSigmasType final_sigmas_type = FinalSigmasType::kZero;
};

/// DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) for the preconditioned models of EDM (Karras et al. 2022,
/// arXiv 2206.00364, table 1): the model sees c_in x and c_noise = log(sigma) / 4, which are the timesteps.
class EDMDPMSolverMultistepScheduler
    : public SigmaScheduler<EDMDPMSolverMultistepScheduler, EDMDPMSolverMultistepSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "EDMDPMSolverMultistepScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit EDMDPMSolverMultistepScheduler(EDMDPMSolverMultistepSchedulerConfig config = {});

  double init_noise_sigma() const override;

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::scale_model_input;
  /// c_in x, c_in = 1 / sqrt(sigma^2 + sigma_data^2)
  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep = {}) const override;
  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  std::vector<Tensor> outputs_;  // the last predictions, newest first
  bool timesteps_set_ = false;
};

}  // namespace diffusers
