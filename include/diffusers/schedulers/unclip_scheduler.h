#pragma once

#include <cstdint>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `UnCLIPScheduler`.
struct UnCLIPSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  VarianceType variance_type = VarianceType::kFixedSmallLog;
  bool clip_sample = true;
  double clip_sample_range = 1.0;
  PredictionType prediction_type = PredictionType::kEpsilon;
  BetaSchedule beta_schedule = BetaSchedule::kSquaredcosCapV2;
};

/// The modified DDPM scheduler of unCLIP (Ramesh et al. 2022, arXiv 2204.06125): cosine betas, and steps that
/// may skip timesteps.
class UnCLIPScheduler : public ConfiguredScheduler<UnCLIPScheduler, UnCLIPSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "UnCLIPScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit UnCLIPScheduler(UnCLIPSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  /// The step to t - 1.
  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;
  /// The step to an earlier timestep, such as the next one of `timesteps()`.
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       int64_t prev_timestep, const StepOptions& options = {});

 private:
  SchedulerOutput step_to(const Tensor& model_output, int64_t t, int64_t prev_t, const Tensor& sample,
                          const StepOptions& options) const;

  NoiseSchedule schedule_;
  TimestepSchedule timesteps_;
};

}  // namespace diffusers
