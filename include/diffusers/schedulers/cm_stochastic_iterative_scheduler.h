#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `CMStochasticIterativeScheduler` (schedulers/scheduling_consistency_models.py),
/// in its order and with its defaults. Fields of a closed set take an enumerator or Python's string.
struct CMStochasticIterativeSchedulerConfig {
  /// Number of noise levels of training, 2 to 10^7.
  int64_t num_train_timesteps = 40;
  /// Smallest noise level, above 0.
  double sigma_min = 0.002;
  /// Largest noise level, above `sigma_min`.
  double sigma_max = 80.0;
  /// Standard deviation of the training data, above 0 (Karras et al. 2022, table 1).
  double sigma_data = 0.5;
  /// Factor of the noise that a step adds.
  double s_noise = 1.0;
  /// Exponent of the Karras spacing: larger values put more steps at low noise (Karras et al. 2022, eq. 5).
  double rho = 7.0;
  /// Clips the predicted x_0 to [-1, 1].
  bool clip_denoised = true;
};

/// Multistep sampling from consistency models (Song et al. 2023, arXiv 2303.01469, algorithm 1) with the
/// parametrization of its appendix C. Timesteps are 250 log(sigma). `step` returns the clean sample as
/// `denoised`, too.
class CMStochasticIterativeScheduler
    : public SigmaScheduler<CMStochasticIterativeScheduler, CMStochasticIterativeSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "CMStochasticIterativeScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit CMStochasticIterativeScheduler(CMStochasticIterativeSchedulerConfig config = {});

  PredictionType prediction_type() const override { return PredictionType::kSample; }
  ForwardProcessType forward_process() const override { return ForwardProcessType::kConsistency; }

  double init_noise_sigma() const override { return config_.sigma_max; }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  /// Chooses the timesteps of a run.
  /// @param num_inference_steps number of steps; nullopt with `.timesteps`
  /// @param options device, and timesteps: positions on the training schedule, descending
  /// @throws ConfigError if a number is out of range or an option is not supported
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::scale_model_input;
  /// Returns x / sqrt(sigma^2 + sigma_data^2), the model's input.
  /// @param sample x_t `[B, ...]`
  /// @param timestep 0-dim or `[1]`, one of `timesteps()`
  /// @return the model's input, shape of the sample
  /// @throws TensorError if the timestep is unknown
  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep = {}) const override;
  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  SigmaRun run_at(const std::vector<double>& positions, bool closed, at::Device device) const;
};

extern template class ConfiguredScheduler<CMStochasticIterativeScheduler,
                                          CMStochasticIterativeSchedulerConfig>;

}  // namespace diffusers
