#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `HeunDiscreteScheduler`.
struct HeunDiscreteSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.00085;
  double beta_end = 0.012;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  PredictionType prediction_type = PredictionType::kEpsilon;
  bool use_karras_sigmas = false;
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;
  bool clip_sample = false;
  double clip_sample_range = 1.0;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  int64_t steps_offset = 0;
};

/// Heun's method of order 2 on the probability-flow ODE (Karras et al. 2022, arXiv 2206.00364, algorithm 1):
/// an Euler step, then the same step again with the mean of the slopes at its ends. Two model evaluations a
/// step, so `timesteps()` holds 2 n - 1. Feed the model `scale_model_input(x, t)`.
class HeunDiscreteScheduler : public SigmaScheduler<HeunDiscreteScheduler, HeunDiscreteSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "HeunDiscreteScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit HeunDiscreteScheduler(HeunDiscreteSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  double init_noise_sigma() const override;
  int64_t order() const override { return 2; }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  /// Takes num_inference_steps or `.timesteps`.
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
  Tensor prev_derivative_;  // defined between the two evaluations of a step
  Tensor sample_;
};

}  // namespace diffusers
