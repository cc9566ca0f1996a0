#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `DDIMScheduler` (schedulers/scheduling_ddim.py), in its order and with its
/// defaults. Fields of a closed set take an enumerator or Python's string.
struct DDIMSchedulerConfig {
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
  /// Rescales the betas so that the last training timestep holds no signal (Lin et al. 2023, algorithm 1).
  bool rescale_betas_zero_snr = false;
};

/// Denoising diffusion implicit models (Song, Meng and Ermon 2020, arXiv 2010.02502): deterministic sampling
/// in few steps at eta = 0, DDPM's ancestral sampling at eta = 1.
///
/// As in Python, `step` goes from t to t - T / n with every spacing. The beta schedules "sigmoid" and
/// "laplace" work as well, which Python's class does not have, so every DDPM config can be sampled.
class DDIMScheduler : public ConfiguredScheduler<DDIMScheduler, DDIMSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "DDIMScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit DDIMScheduler(DDIMSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  bool takes_eta() const override { return true; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  Tensor final_alpha_cumprod() const override;
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  Tensor get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  /// Chooses the timesteps of a run. With custom timesteps, which Python's class does not have, `step` goes
  /// to the next one in the list.
  /// @param num_inference_steps number of steps; nullopt with `.timesteps`
  /// @param options device and timesteps (descending)
  /// @throws ConfigError if a number is out of range, or if both `num_inference_steps` and `.timesteps` are
  ///   given
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;
  /// Returns t - T / n, or the next one of custom timesteps. Python's class computes it inside `step`.
  /// @param timestep one of `timesteps()`
  /// @return the next timestep; below 0 after the last one
  /// @throws Error before `set_timesteps`; TensorError if custom timesteps do not contain the timestep
  int64_t previous_timestep(int64_t timestep) const override;

  using Scheduler::step;
  /// Computes x_{t - T / n} from x_t (Song et al. 2020, eq. 12).
  /// @param model_output prediction of the model, shape of the sample
  /// @param timestep 0-dim or `[1]`, one of `timesteps()`
  /// @param sample x_t `[B, ...]`
  /// @param options eta, use_clipped_model_output, and generator or variance_noise
  /// @return prev_sample and pred_original_sample
  /// @throws Error before `set_timesteps`; TensorError on a wrong shape or timestep; ConfigError if the
  ///   config makes x_0 or epsilon undefined, such as an epsilon model at zero terminal SNR without clipping
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  NoiseSchedule schedule_;
  TimestepSchedule timesteps_;
  int64_t num_inference_steps_ = 0;  // 0: set_timesteps has not been called
  bool custom_timesteps_ = false;
};

extern template class ConfiguredScheduler<DDIMScheduler, DDIMSchedulerConfig>;

}  // namespace diffusers
