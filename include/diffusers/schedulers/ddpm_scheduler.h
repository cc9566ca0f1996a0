#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `DDPMScheduler` (schedulers/scheduling_ddpm.py), in its order and with its
/// defaults. Fields of a closed set take an enumerator or Python's string.
struct DDPMSchedulerConfig {
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
  /// Variance of the reverse process: "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log",
  /// "learned" or "learned_range". The last two double the channels of the model.
  EnumChoice<VarianceType> variance_type = VarianceType::kFixedSmall;
  /// Clips the predicted x_0 to [-clip_sample_range, clip_sample_range].
  bool clip_sample = true;
  /// Prediction of the model: "epsilon", "sample" or "v_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Dynamic thresholding of the predicted x_0 (Saharia et al. 2022, section 2.3). For pixel models, not for
  /// latents.
  bool thresholding = false;
  /// Quantile of the magnitudes to which `thresholding` clips, 0 to 1.
  double dynamic_thresholding_ratio = 0.995;
  /// Largest magnitude of a clipped x_0, 0 or more. Read with `clip_sample` only.
  double clip_sample_range = 1.0;
  /// Largest threshold of `thresholding`, above 0.
  double sample_max_value = 1.0;
  /// Spacing of the steps over the training timesteps: "linspace", "leading" or "trailing" (Lin et al. 2023,
  /// table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLeading;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
  int64_t steps_offset = 0;
  /// Rescales the betas so that the last training timestep holds no signal (Lin et al. 2023, algorithm 1).
  bool rescale_betas_zero_snr = false;
};

/// Denoising diffusion probabilistic models (Ho, Jain and Abbeel 2020, arXiv 2006.11239): noising for
/// training, and ancestral sampling.
///
/// `step` draws noise of the shape of the model output for every t > 0. With a learned variance the model
/// output has twice the channels of the sample. `fixed_large_log` samples with the standard deviation
/// sqrt(beta_t), as its name says. Python takes the square root of the logarithm there and returns NaN.
class DDPMScheduler : public ConfiguredScheduler<DDPMScheduler, DDPMSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "DDPMScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit DDPMScheduler(DDPMSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  Tensor get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const override;

  using Scheduler::set_timesteps;
  /// Chooses the timesteps of a run.
  /// @param num_inference_steps number of steps; nullopt with `.timesteps`
  /// @param options device and timesteps (descending)
  /// @throws ConfigError if a number is out of range, or if both `num_inference_steps` and `.timesteps` are
  ///   given
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;
  int64_t previous_timestep(int64_t timestep) const override;

  using Scheduler::step;
  /// Computes x_{t-1} from x_t (Ho et al. 2020, algorithm 2). Before `set_timesteps` the run has all training
  /// timesteps.
  /// @param model_output prediction of the model, shape of the sample (twice the channels for a learned
  ///   variance)
  /// @param timestep 0-dim or `[1]`, one of `timesteps()`
  /// @param sample x_t `[B, C, ...]`
  /// @param options generator
  /// @return prev_sample and pred_original_sample
  /// @throws TensorError on a wrong shape or an unknown timestep; ConfigError if the config makes x_0
  ///   undefined
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  NoiseSchedule schedule_;
  TimestepSchedule timesteps_;
  bool timesteps_set_ = false;
};

extern template class ConfiguredScheduler<DDPMScheduler, DDPMSchedulerConfig>;

}  // namespace diffusers
