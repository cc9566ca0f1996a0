#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `PNDMScheduler` (schedulers/scheduling_pndm.py), in its order and with its
/// defaults. Fields of a closed set take an enumerator or Python's string.
struct PNDMSchedulerConfig {
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
  /// Skips the Runge-Kutta steps of the warm-up. Stable Diffusion sets it.
  bool skip_prk_steps = false;
  /// abar after the last step of a run: 1 if true, abar_0 if false.
  bool set_alpha_to_one = false;
  /// Prediction of the model: "epsilon" or "v_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Spacing of the steps over the training timesteps: "linspace", "leading" or "trailing" (Lin et al. 2023,
  /// table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLeading;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
  int64_t steps_offset = 0;
};

/// Pseudo numerical methods for diffusion models (Liu et al. 2022, arXiv 2202.09778): four Runge-Kutta steps
/// to warm up, then a linear multistep method of order 4. With `skip_prk_steps` (Stable Diffusion) the
/// multistep method starts without them, with lower orders. Call `step` with each of `timesteps()`, in order.
class PNDMScheduler : public ConfiguredScheduler<PNDMScheduler, PNDMSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "PNDMScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit PNDMScheduler(PNDMSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  Tensor final_alpha_cumprod() const override;
  /// Returns the timesteps of the run, in order. Undefined before `set_timesteps`.
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
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
  int64_t start_ = 0;        // position in timesteps() at which the run began
  int64_t counter_ = 0;      // steps since then
  std::vector<Tensor> ets_;  // the last predictions, oldest first
  Tensor cur_model_output_;  // the Runge-Kutta sum so far
  Tensor cur_sample_;
};

extern template class ConfiguredScheduler<PNDMScheduler, PNDMSchedulerConfig>;

}  // namespace diffusers
