#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `TCDScheduler`.
struct TCDSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.00085;
  double beta_end = 0.012;
  BetaSchedule beta_schedule = BetaSchedule::kScaledLinear;
  std::vector<double> trained_betas = {};
  int64_t original_inference_steps = 50;
  bool clip_sample = false;
  double clip_sample_range = 1.0;
  bool set_alpha_to_one = true;
  int64_t steps_offset = 0;
  PredictionType prediction_type = PredictionType::kEpsilon;
  bool thresholding = false;
  double dynamic_thresholding_ratio = 0.995;
  double sample_max_value = 1.0;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLeading;
  double timestep_scaling = 10.0;
  bool rescale_betas_zero_snr = false;
};

/// Trajectory consistency distillation (Zheng et al. 2024, arXiv 2402.19159, algorithm 4: strategic
/// stochastic sampling): each step goes down to s = (1 - eta) t' on the trajectory and back up to t' with
/// noise. eta is 0.3 by default.
class TCDScheduler : public SigmaScheduler<TCDScheduler, TCDSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "TCDScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit TCDScheduler(TCDSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  Tensor final_alpha_cumprod() const override;
  Tensor sigmas() const override { return Scheduler::sigmas(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  Tensor get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const override;
  /// Takes num_inference_steps or `.timesteps`; `.original_inference_steps` and `.strength` as in Python.
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  NoiseSchedule schedule_;
  int64_t num_inference_steps_ = 0;
};

}  // namespace diffusers
