#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `LMSDiscreteScheduler`.
struct LMSDiscreteSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  bool use_karras_sigmas = false;
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;
  PredictionType prediction_type = PredictionType::kEpsilon;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  int64_t steps_offset = 0;
};

/// Linear multistep method of order 4 on the probability-flow ODE of Karras et al. 2022 (k-diffusion's
/// `sample_lms`): the polynomial through the last derivatives is integrated exactly. Feed the model
/// `scale_model_input(x, t)`.
class LMSDiscreteScheduler : public SigmaScheduler<LMSDiscreteScheduler, LMSDiscreteSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "LMSDiscreteScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit LMSDiscreteScheduler(LMSDiscreteSchedulerConfig config = {});

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
  double coefficient(int64_t order, int64_t step, int64_t which) const;

  NoiseSchedule schedule_;
  std::vector<Tensor> derivatives_;  // the last four, oldest first
};

}  // namespace diffusers
