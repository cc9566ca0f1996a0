#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `KDPM2AncestralDiscreteScheduler`.
struct KDPM2AncestralDiscreteSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.00085;
  double beta_end = 0.012;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  bool use_karras_sigmas = false;
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;
  PredictionType prediction_type = PredictionType::kEpsilon;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  int64_t steps_offset = 0;
};

/// KDPM2DiscreteScheduler with ancestral noise (k-diffusion's `sample_dpm_2_ancestral`): the midpoint method
/// runs to sigma_down, then noise of sigma_up is added. Two model evaluations a step. Feed the model
/// `scale_model_input(x, t)`.
class KDPM2AncestralDiscreteScheduler
    : public SigmaScheduler<KDPM2AncestralDiscreteScheduler, KDPM2AncestralDiscreteSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "KDPM2AncestralDiscreteScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit KDPM2AncestralDiscreteScheduler(KDPM2AncestralDiscreteSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  double init_noise_sigma() const override;
  int64_t order() const override { return 2; }

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
  // Of the step that leaves sigma_i: its middle, where it goes down to, and the noise that is added; doubled.
  std::vector<float> sigmas_interpol_;
  std::vector<float> sigmas_up_;
  std::vector<float> sigmas_down_;
  Tensor sample_;  // defined between the two evaluations of a step
};

}  // namespace diffusers
