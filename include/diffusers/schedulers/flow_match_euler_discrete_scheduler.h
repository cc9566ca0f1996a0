#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `FlowMatchEulerDiscreteScheduler`.
struct FlowMatchEulerDiscreteSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double shift = 1.0;
  bool use_dynamic_shifting = false;
  std::optional<double> base_shift = 0.5;
  std::optional<double> max_shift = 1.15;
  int64_t base_image_seq_len = 256;
  int64_t max_image_seq_len = 4096;
  bool invert_sigmas = false;
  std::optional<double> shift_terminal = std::nullopt;
  bool use_karras_sigmas = false;
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;
  TimeShiftType time_shift_type = TimeShiftType::kExponential;
  bool stochastic_sampling = false;
};

/// Euler's method for flow matching and rectified flow (Esser et al. 2024, arXiv 2403.03206): x_sigma = (1 -
/// sigma) x_0 + sigma eps, and the model predicts eps - x_0. Timesteps are 1000 sigma. The schedule is
/// shifted towards noise by `shift`, or by `mu` in set_timesteps with `use_dynamic_shifting`.
class FlowMatchEulerDiscreteScheduler
    : public SigmaScheduler<FlowMatchEulerDiscreteScheduler, FlowMatchEulerDiscreteSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "FlowMatchEulerDiscreteScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit FlowMatchEulerDiscreteScheduler(FlowMatchEulerDiscreteSchedulerConfig config = {});

  static constexpr std::string_view kPredictionTypeName = "flow_prediction";

  double shift() const { return shift_; }
  void set_shift(double shift) { shift_ = shift; }

  /// sigma eps + (1 - sigma) x_0, one timestep for each sample
  Tensor scale_noise(const Tensor& sample, const Tensor& timestep, const Tensor& noise) const override;
  /// Takes num_inference_steps, `.sigmas`, `.timesteps` (of equal length if several), and `.mu` for dynamic
  /// shifting.
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;
  /// The step with a timestep of its own for each token of a sample `[B, N, C]`.
  /// @param per_token_timesteps `[B, N]`
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const Tensor& per_token_timesteps, const StepOptions& options = {});

 private:
  Tensor stochastic_or_euler(const Tensor& model_output, const Tensor& sample, const Tensor& sigma,
                             const Tensor& sigma_next, const Tensor& dt, const StepOptions& options) const;

  double shift_ = 1.0;
  double sigma_min_ = 0.0;
  double sigma_max_ = 1.0;
};

}  // namespace diffusers
