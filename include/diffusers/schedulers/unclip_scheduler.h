#pragma once

#include <cstdint>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `UnCLIPScheduler` (schedulers/scheduling_unclip.py), in its order and with its
/// defaults. Fields of a closed set take an enumerator or Python's string.
struct UnCLIPSchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// Variance of the reverse process: "fixed_small_log" or "learned_range". "learned_range" doubles the
  /// channels of the model.
  EnumChoice<VarianceType> variance_type = VarianceType::kFixedSmallLog;
  /// Clips the predicted x_0 to [-clip_sample_range, clip_sample_range].
  bool clip_sample = true;
  /// Largest magnitude of a clipped x_0, 0 or more. Read with `clip_sample` only.
  double clip_sample_range = 1.0;
  /// Prediction of the model: "epsilon" or "sample".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Beta schedule; only "squaredcos_cap_v2" (cosine).
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kSquaredcosCapV2;
};

/// The modified DDPM scheduler of unCLIP (Ramesh et al. 2022, arXiv 2204.06125): cosine betas, and steps that
/// may skip timesteps.
class UnCLIPScheduler : public ConfiguredScheduler<UnCLIPScheduler, UnCLIPSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "UnCLIPScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit UnCLIPScheduler(UnCLIPSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  /// Runs the step from t to t - 1.
  /// @param model_output prediction of the model, shape of the sample (twice the channels for a learned
  ///   variance)
  /// @param timestep one of `timesteps()`
  /// @param sample x_t
  /// @param options generator
  /// @return prev_sample and pred_original_sample
  /// @throws TensorError on a mismatch
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;
  /// Runs a step to an earlier timestep, such as the next one of `timesteps()`.
  /// @param model_output prediction of the model, shape of the sample (twice the channels for a learned
  ///   variance)
  /// @param timestep one of `timesteps()`
  /// @param sample x_t
  /// @param prev_timestep timestep after the step, below `timestep`
  /// @param options generator
  /// @return prev_sample and pred_original_sample
  /// @throws TensorError on a mismatch, or if the timesteps do not descend
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       int64_t prev_timestep, const StepOptions& options = {});

 private:
  SchedulerOutput step_to(const Tensor& model_output, int64_t t, int64_t prev_t, const Tensor& sample,
                          const StepOptions& options) const;

  NoiseSchedule schedule_;
  TimestepSchedule timesteps_;
};

extern template class ConfiguredScheduler<UnCLIPScheduler, UnCLIPSchedulerConfig>;

}  // namespace diffusers
