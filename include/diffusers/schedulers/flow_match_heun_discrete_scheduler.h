#pragma once

#include <cstdint>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `FlowMatchHeunDiscreteScheduler`.
struct FlowMatchHeunDiscreteSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double shift = 1.0;
};

/// Heun's method of order 2 for flow matching (Karras et al. 2022, arXiv 2206.00364, algorithm 2, on the
/// straight paths of Esser et al. 2024, arXiv 2403.03206). Two model evaluations a step, so `timesteps()`
/// holds 2 n - 1.
class FlowMatchHeunDiscreteScheduler
    : public SigmaScheduler<FlowMatchHeunDiscreteScheduler, FlowMatchHeunDiscreteSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "FlowMatchHeunDiscreteScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit FlowMatchHeunDiscreteScheduler(FlowMatchHeunDiscreteSchedulerConfig config = {});

  static constexpr std::string_view kPredictionTypeName = "flow_prediction";

  int64_t order() const override { return 2; }

  /// sigma eps + (1 - sigma) x_0 at the current step or the one of the timestep
  Tensor scale_noise(const Tensor& sample, const Tensor& timestep, const Tensor& noise) const override;
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

}  // namespace diffusers
