#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `DDIMInverseScheduler`.
struct DDIMInverseSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  bool clip_sample = true;
  bool set_alpha_to_one = true;
  int64_t steps_offset = 0;
  PredictionType prediction_type = PredictionType::kEpsilon;
  double clip_sample_range = 1.0;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLeading;
  bool rescale_betas_zero_snr = false;
};

/// DDIMScheduler run backwards (Song et al. 2020, arXiv 2010.02502; Mokady et al. 2022, arXiv 2211.09794):
/// from an image to the noise that DDIM turns back into it. `timesteps()` ascend. Spacing is leading or
/// trailing.
class DDIMInverseScheduler : public ConfiguredScheduler<DDIMInverseScheduler, DDIMInverseSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "DDIMInverseScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit DDIMInverseScheduler(DDIMInverseSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  NoiseSchedule schedule_;
  TimestepSchedule timesteps_;
  int64_t num_inference_steps_ = 0;
};

}  // namespace diffusers
