#pragma once

#include <cstdint>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `FlowMatchHeunDiscreteScheduler`
/// (schedulers/scheduling_flow_match_heun_discrete.py), in its order and with its defaults. Fields of a
/// closed set take an enumerator or Python's string.
struct FlowMatchHeunDiscreteSchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// Shift s of the sigmas: s sigma / (1 + (s - 1) sigma), above 0. 1 means no shift. Stable Diffusion 3 uses
  /// 3.
  double shift = 1.0;
};

/// Heun's method of order 2 for flow matching (Karras et al. 2022, arXiv 2206.00364, algorithm 2, on the
/// straight paths of Esser et al. 2024, arXiv 2403.03206). Each step evaluates the model twice, so
/// `timesteps()` holds 2 n - 1 entries.
class FlowMatchHeunDiscreteScheduler
    : public SigmaScheduler<FlowMatchHeunDiscreteScheduler, FlowMatchHeunDiscreteSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "FlowMatchHeunDiscreteScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit FlowMatchHeunDiscreteScheduler(FlowMatchHeunDiscreteSchedulerConfig config = {});

  PredictionType prediction_type() const override { return PredictionType::kFlowPrediction; }
  ForwardProcessType forward_process() const override { return ForwardProcessType::kFlowMatching; }
  bool has_scale_noise() const override { return true; }

  int64_t order() const override { return 2; }

  /// Adds noise to clean samples: (1 - sigma) x_0 + sigma eps. Sigma is that of the current step, or of the
  /// timestep before the first step.
  /// @param sample x_0 `[B, ...]`, floating
  /// @param timestep 0-dim or `[1]`, one of `timesteps()`
  /// @param noise eps, shape of x_0
  /// @return x_sigma, shape of x_0
  /// @throws TensorError on a mismatch or an unknown timestep
  Tensor scale_noise(const Tensor& sample, const Tensor& timestep, const Tensor& noise) const override;
  using Scheduler::set_timesteps;
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  double sigma_min_ = 0.0;
  double sigma_max_ = 1.0;
  Tensor prev_derivative_;  // defined between the two evaluations of a step
  Tensor sample_;
  float dt_ = 0;
};

extern template class ConfiguredScheduler<FlowMatchHeunDiscreteScheduler,
                                          FlowMatchHeunDiscreteSchedulerConfig>;

}  // namespace diffusers
