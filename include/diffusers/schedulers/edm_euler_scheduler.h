#pragma once

#include <cstdint>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `EDMEulerScheduler`.
struct EDMEulerSchedulerConfig {
  double sigma_min = 0.002;
  double sigma_max = 80.0;
  double sigma_data = 0.5;
  SigmaScheduleType sigma_schedule = SigmaScheduleType::kKarras;
  int64_t num_train_timesteps = 1000;
  PredictionType prediction_type = PredictionType::kEpsilon;
  double rho = 7.0;
  FinalSigmasType final_sigmas_type = FinalSigmasType::kZero;
};

/// The Euler sampler of EDM (Karras et al. 2022, arXiv 2206.00364, algorithm 2) with its preconditioning
/// (table 1): the model sees c_in x and c_noise = log(sigma) / 4, which are the timesteps. Every timestep
/// given must be one of `timesteps()`.
class EDMEulerScheduler : public SigmaScheduler<EDMEulerScheduler, EDMEulerSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "EDMEulerScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit EDMEulerScheduler(EDMEulerSchedulerConfig config = {});

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
  /// The step with an x_0 that the caller has: the model's, guided or clipped.
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const Tensor& pred_original_sample, const StepOptions& options = {});

 private:
  SigmaRun run_at(const Tensor& ramp, at::Device device) const;
};

}  // namespace diffusers
