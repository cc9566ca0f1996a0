#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `DDPMScheduler`.
struct DDPMSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  VarianceType variance_type = VarianceType::kFixedSmall;
  bool clip_sample = true;
  PredictionType prediction_type = PredictionType::kEpsilon;
  bool thresholding = false;
  double dynamic_thresholding_ratio = 0.995;
  double clip_sample_range = 1.0;
  double sample_max_value = 1.0;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLeading;
  int64_t steps_offset = 0;
  bool rescale_betas_zero_snr = false;
};

/// Denoising diffusion probabilistic models (Ho, Jain and Abbeel 2020, arXiv 2006.11239): the scheduler to
/// train with, and ancestral sampling.
///
/// `step` draws noise of the shape of the model output for every t > 0. With a learned variance the model
/// output holds twice the channels of the sample. `fixed_large_log` samples with the standard deviation
/// sqrt(beta_t), which is what the name says; Python takes the square root of the logarithm there and gives
/// NaN.
class DDPMScheduler : public ConfiguredScheduler<DDPMScheduler, DDPMSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "DDPMScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit DDPMScheduler(DDPMSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  Tensor get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const override;

  /// Takes `num_inference_steps`, or `.timesteps` in descending order, not both.
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  /// x_{t-1} from x_t. Before `set_timesteps`, t - 1 follows t.
  /// @param model_output what `prediction_type` says, shape of the sample (twice the channels for a learned
  /// variance)
  /// @param timestep one of `timesteps()`
  /// @return prev_sample and pred_original_sample
  /// @throws TensorError on a wrong shape or an unknown timestep; ConfigError where the config makes x_0
  /// undefined
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  int64_t previous_timestep(int64_t t) const;

  NoiseSchedule schedule_;
  TimestepSchedule timesteps_;
  bool timesteps_set_ = false;
};

}  // namespace diffusers
