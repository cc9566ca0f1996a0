#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `EulerAncestralDiscreteScheduler`.
struct EulerAncestralDiscreteSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  PredictionType prediction_type = PredictionType::kEpsilon;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  int64_t steps_offset = 0;
  bool rescale_betas_zero_snr = false;
};

/// Ancestral sampling with Euler steps: each goes a little further down than the next noise level, and noise
/// brings it back up (Crowson's k-diffusion; sigma_up and sigma_down are those of DDPM's posterior, Song et
/// al. 2021, arXiv 2011.13456, appendix F). Feed the model `scale_model_input(x, t)`.
class EulerAncestralDiscreteScheduler
    : public SigmaScheduler<EulerAncestralDiscreteScheduler, EulerAncestralDiscreteSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "EulerAncestralDiscreteScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit EulerAncestralDiscreteScheduler(EulerAncestralDiscreteSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  double init_noise_sigma() const override;

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::scale_model_input;
  /// x / sqrt(sigma^2 + 1)
  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep = {}) const override;
  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  NoiseSchedule schedule_;
};

}  // namespace diffusers
