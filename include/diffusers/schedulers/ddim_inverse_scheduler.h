#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `DDIMInverseScheduler` (schedulers/scheduling_ddim_inverse.py), in its order and
/// with its defaults. Fields of a closed set take an enumerator or Python's string.
struct DDIMInverseSchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// beta of the first training timestep, 0 to 1.
  double beta_start = 0.0001;
  /// beta of the last training timestep, 0 to 1.
  double beta_end = 0.02;
  /// Beta schedule: "linear", "scaled_linear" (linear in sqrt(beta)), "squaredcos_cap_v2" (cosine), "sigmoid"
  /// or "laplace".
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kLinear;
  /// Explicit betas, at least T numbers from 0 to 1. Empty: `beta_start`, `beta_end` and `beta_schedule`
  /// define the betas.
  std::vector<double> trained_betas = {};
  /// Clips the predicted x_0 to [-clip_sample_range, clip_sample_range].
  bool clip_sample = true;
  /// abar after the last step of a run: 1 if true, abar_0 if false.
  bool set_alpha_to_one = true;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
  int64_t steps_offset = 0;
  /// Prediction of the model: "epsilon", "sample" or "v_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Largest magnitude of a clipped x_0, 0 or more. Read with `clip_sample` only.
  double clip_sample_range = 1.0;
  /// Spacing of the steps over the training timesteps: "linspace", "leading" or "trailing" (Lin et al. 2023,
  /// table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLeading;
  /// Rescales the betas so that the last training timestep holds no signal (Lin et al. 2023, algorithm 1).
  bool rescale_betas_zero_snr = false;
};

/// The inverse of DDIMScheduler (Song et al. 2020, arXiv 2010.02502; Mokady et al. 2022, arXiv 2211.09794):
/// it turns an image into the noise from which DDIM regenerates the image. `timesteps()` ascend. The spacing
/// is "leading" or "trailing".
class DDIMInverseScheduler : public ConfiguredScheduler<DDIMInverseScheduler, DDIMInverseSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "DDIMInverseScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit DDIMInverseScheduler(DDIMInverseSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kInversion; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  using Scheduler::set_timesteps;
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

extern template class ConfiguredScheduler<DDIMInverseScheduler, DDIMInverseSchedulerConfig>;

}  // namespace diffusers
