#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `TCDScheduler` (schedulers/scheduling_tcd.py), in its order and with its
/// defaults. Fields of a closed set take an enumerator or Python's string.
struct TCDSchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// beta of the first training timestep, 0 to 1.
  double beta_start = 0.00085;
  /// beta of the last training timestep, 0 to 1.
  double beta_end = 0.012;
  /// Beta schedule: "linear", "scaled_linear" (linear in sqrt(beta)), "squaredcos_cap_v2" (cosine), "sigmoid"
  /// or "laplace".
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kScaledLinear;
  /// Explicit betas, at least T numbers from 0 to 1. Empty: `beta_start`, `beta_end` and `beta_schedule`
  /// define the betas.
  std::vector<double> trained_betas = {};
  /// Number of steps of the teacher's schedule, 1 to T. The run takes its timesteps from this schedule.
  int64_t original_inference_steps = 50;
  /// Clips the predicted x_0 to [-clip_sample_range, clip_sample_range].
  bool clip_sample = false;
  /// Largest magnitude of a clipped x_0, 0 or more. Read with `clip_sample` only.
  double clip_sample_range = 1.0;
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
  /// Largest threshold of `thresholding`, above 0.
  double sample_max_value = 1.0;
  /// Spacing of the steps over the training timesteps: "linspace", "leading" or "trailing" (Lin et al. 2023,
  /// table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLeading;
  /// Factor of the timesteps in the boundary conditions c_skip and c_out. Larger values reduce the
  /// approximation error.
  double timestep_scaling = 10.0;
  /// Rescales the betas so that the last training timestep holds no signal (Lin et al. 2023, algorithm 1).
  bool rescale_betas_zero_snr = false;
};

/// Trajectory consistency distillation (Zheng et al. 2024, arXiv 2402.19159, algorithm 4: strategic
/// stochastic sampling). Each step goes along the trajectory to s = (1 - eta) t', then adds noise to reach
/// t'. eta is 0.3 by default.
class TCDScheduler : public SigmaScheduler<TCDScheduler, TCDSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "TCDScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit TCDScheduler(TCDSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  bool takes_eta() const override { return true; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  Tensor final_alpha_cumprod() const override;
  Tensor sigmas() const override { return Scheduler::sigmas(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  Tensor get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  /// Chooses the timesteps of a run from the teacher's schedule.
  /// @param num_inference_steps number of steps; nullopt with `.timesteps`
  /// @param options device, timesteps, original_inference_steps and strength, as in Python
  /// @throws ConfigError if a number is out of range or an option is not supported
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;
  int64_t previous_timestep(int64_t timestep) const override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  NoiseSchedule schedule_;
  int64_t num_inference_steps_ = 0;
};

extern template class ConfiguredScheduler<TCDScheduler, TCDSchedulerConfig>;

}  // namespace diffusers
