#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `DDIMScheduler`.
struct DDIMSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  bool clip_sample = true;
  bool set_alpha_to_one = true;
  int64_t steps_offset = 0;
  PredictionType prediction_type = PredictionType::kEpsilon;
  bool thresholding = false;
  double dynamic_thresholding_ratio = 0.995;
  double clip_sample_range = 1.0;
  double sample_max_value = 1.0;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLeading;
  bool rescale_betas_zero_snr = false;
};

/// Denoising diffusion implicit models (Song, Meng and Ermon 2020, arXiv 2010.02502): deterministic sampling
/// in few steps at eta = 0, DDPM's ancestral sampling at eta = 1.
///
/// As in Python, t - T / n follows t in `step` whatever the spacing. The beta schedules that Python's class
/// lacks (sigmoid, laplace) work too, so that every DDPM config can be sampled.
class DDIMScheduler : public ConfiguredScheduler<DDIMScheduler, DDIMSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "DDIMScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit DDIMScheduler(DDIMSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  Tensor final_alpha_cumprod() const override;
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  Tensor get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const override;
  /// Takes `num_inference_steps`, or `.timesteps` in descending order, not both. Python's class has no custom
  /// timesteps; with them the next one in the list follows in `step`.
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  /// x_{t - T / n} from x_t. Options: eta, use_clipped_model_output, generator or variance_noise.
  /// @return prev_sample and pred_original_sample
  /// @throws Error before `set_timesteps`; TensorError on a wrong shape or timestep; ConfigError where the
  /// config makes
  ///         x_0 or epsilon undefined, as an epsilon model does at zero terminal SNR without clipping
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  int64_t previous_timestep(int64_t t) const;

  NoiseSchedule schedule_;
  TimestepSchedule timesteps_;
  int64_t num_inference_steps_ = 0;  // 0: set_timesteps has not been called
  bool custom_timesteps_ = false;
};

}  // namespace diffusers
