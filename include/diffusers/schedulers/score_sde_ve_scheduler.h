#pragma once

#include <cstdint>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/device_table.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `ScoreSdeVeScheduler` (schedulers/scheduling_sde_ve.py), in its order and with
/// its defaults. Fields of a closed set take an enumerator or Python's string.
struct ScoreSdeVeSchedulerConfig {
  /// Number of noise levels, 1 or more.
  int64_t num_train_timesteps = 2000;
  /// Signal-to-noise ratio of a corrector step; larger values make larger steps (Song et al. 2021, algorithm
  /// 4).
  double snr = 0.15;
  /// Smallest noise level, above 0. Use the noise level of the training data.
  double sigma_min = 0.01;
  /// Largest noise level.
  double sigma_max = 1348.0;
  /// Time of the last step, in (0, 1). The times of a run go from 1 down to it.
  double sampling_eps = 1e-5;
  /// Number of corrector steps after each predictor step. The caller runs them.
  int64_t correct_steps = 1;
};

/// The variance-exploding SDE (Song et al. 2021, arXiv 2011.13456). A run has predictor steps along the
/// reverse diffusion (`step_pred`) and Langevin corrector steps (`step_correct`). There is no plain `step`,
/// as in Python.
class ScoreSdeVeScheduler : public ConfiguredScheduler<ScoreSdeVeScheduler, ScoreSdeVeSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "ScoreSdeVeScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit ScoreSdeVeScheduler(ScoreSdeVeSchedulerConfig config = {});

  PredictionType prediction_type() const override;
  ForwardProcessType forward_process() const override { return ForwardProcessType::kVarianceExploding; }

  /// Result of `step_pred` and `step_correct`.
  struct Output {
    Tensor prev_sample;       ///< The sample after the step, shape of x_t.
    Tensor prev_sample_mean;  ///< The same without the noise of this step, shape of x_t.
  };

  double init_noise_sigma() const override { return config_.sigma_max; }
  Timesteps timesteps() const override { return timesteps_.tensor(); }
  Tensor sigmas() const override { return sigmas_; }
  /// Returns the noise levels of training, ascending, float32 on the CPU.
  Tensor discrete_sigmas() const { return discrete_sigmas_.host(); }

  /// Adds noise to clean samples: x_0 + sigma eps.
  /// @param original_samples x_0 `[B, ...]`, floating
  /// @param noise eps, shape, dtype and device of x_0
  /// @param timesteps positions in `discrete_sigmas()`, one for each sample, `[B]`
  /// @return x_t, shape and dtype of x_0
  /// @throws TensorError on a shape, dtype or range mismatch
  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  /// Chooses evenly spaced times from 1 down to the config's `sampling_eps`.
  /// @param num_inference_steps number of times, 1 or more
  /// @param options device
  /// @throws ConfigError if a number is out of range or an option is not supported
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;
  /// Chooses evenly spaced times from 1 down to `sampling_eps`.
  /// @param num_inference_steps number of times, 1 or more
  /// @param sampling_eps the last time
  /// @param device device of `timesteps()`
  /// @throws ConfigError if a number is out of range
  void set_timesteps(int64_t num_inference_steps, double sampling_eps, at::Device device = at::kCPU);
  /// Chooses the noise levels of a run. Without this call, `set_timesteps` keeps those of the training
  /// schedule, as in Python.
  /// @param num_inference_steps number of levels, 1 or more
  /// @param sigma_min smallest level; nullopt uses the config's
  /// @param sigma_max largest level; nullopt uses the config's
  /// @param sampling_eps the last time; nullopt uses the config's
  /// @throws ConfigError if a number is out of range
  void set_sigmas(int64_t num_inference_steps, std::optional<double> sigma_min = std::nullopt,
                  std::optional<double> sigma_max = std::nullopt,
                  std::optional<double> sampling_eps = std::nullopt);

  using Scheduler::step;
  /// Throws Error, because a run consists of `step_correct` and `step_pred`.
  /// @throws Error always
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;
  /// Runs one step of the reverse diffusion (Song et al., eq. 6 and algorithm 2).
  /// @param model_output the score, shape of the sample
  /// @param timestep 0-dim or `[1]`, one of `timesteps()`
  /// @param sample x_t `[B, ...]`
  /// @param options generator
  /// @return the sample with and without the noise of this step
  /// @throws TensorError on a mismatch, or if there are fewer sigmas than timesteps
  Output step_pred(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                   const StepOptions& options = {});
  /// Runs one step of annealed Langevin dynamics (Song et al., algorithm 4).
  /// @param model_output the score, shape of the sample
  /// @param sample x_t `[B, ...]`
  /// @param options generator
  /// @return the sample with and without the noise of this step
  /// @throws TensorError on a mismatch
  Output step_correct(const Tensor& model_output, const Tensor& sample, const StepOptions& options = {});

 private:
  TimestepSchedule timesteps_;
  Tensor sigmas_;
  DeviceTable discrete_sigmas_;
};

extern template class ConfiguredScheduler<ScoreSdeVeScheduler, ScoreSdeVeSchedulerConfig>;

}  // namespace diffusers
