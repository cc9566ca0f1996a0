#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `PNDMScheduler`.
struct PNDMSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  bool skip_prk_steps = false;
  bool set_alpha_to_one = false;
  PredictionType prediction_type = PredictionType::kEpsilon;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLeading;
  int64_t steps_offset = 0;
};

/// Pseudo numerical methods for diffusion models (Liu et al. 2022, arXiv 2202.09778): four Runge-Kutta steps
/// to warm up, then a linear multistep method of order 4. With `skip_prk_steps` the multistep method warms up
/// by itself, as Stable Diffusion uses it. Every step must be one of `timesteps()`, in order.
class PNDMScheduler : public ConfiguredScheduler<PNDMScheduler, PNDMSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "PNDMScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit PNDMScheduler(PNDMSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  Tensor final_alpha_cumprod() const override;
  /// Undefined before `set_timesteps`.
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  SchedulerOutput step_prk(const Tensor& model_output, int64_t timestep, const Tensor& sample);
  SchedulerOutput step_plms(const Tensor& model_output, int64_t timestep, const Tensor& sample);
  Tensor previous_sample(const Tensor& sample, int64_t t, int64_t prev_t, const Tensor& model_output) const;

  NoiseSchedule schedule_;
  TimestepSchedule timesteps_;
  std::vector<int64_t> prk_timesteps_;
  int64_t num_inference_steps_ = 0;
  int64_t start_ = 0;        // where in timesteps() the run began
  int64_t counter_ = 0;      // steps since then
  std::vector<Tensor> ets_;  // the last predictions, oldest first
  Tensor cur_model_output_;  // the Runge-Kutta sum so far
  Tensor cur_sample_;
};

}  // namespace diffusers
