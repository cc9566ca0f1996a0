#pragma once

// The forward processes whose times are the training timesteps of a scheduler.

#include <memory>
#include <optional>

#include <diffusers/schedulers/device_table.h>
#include <diffusers/schedulers/noise_schedule.h>

#include "training/objective/forward_process.h"
#include "training/objective/snr_weights.h"

namespace diffusers {
inline namespace internal {

/// Base of both processes: a scheduler, and a weight for each time.
class ScheduledProcess : public ForwardProcess {
 public:
  Tensor log_variance_time(const Tensor& t) const override;
  const Scheduler& scheduler() const override { return *scheduler_; }
  PredictionType prediction_type() const override { return prediction_type_; }

 protected:
  ScheduledProcess(const Scheduler& scheduler, PredictionType prediction_type)
      : scheduler_(scheduler.clone()), prediction_type_(prediction_type) {}

 private:
  std::shared_ptr<const Scheduler> scheduler_;
  PredictionType prediction_type_;
};

/// x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t a whole training timestep. For the schedulers in the
/// coordinates x_0 + sigma eps (Euler, LMS, Heun, ...) this is their scaled input,
/// `scale_model_input(add_noise(x_0, eps, t), t)`.
class VariancePreservingProcess : public ScheduledProcess {
 public:
  /// @throws ConfigError if the weights of a timestep are not finite
  VariancePreservingProcess(const Scheduler& scheduler, PredictionType prediction_type,
                            const DiffusionLossOptions& options);

  Tensor noisy(const Tensor& x0, const Tensor& noise, const Tensor& t) const override;
  /// epsilon: the noise; sample: x_0; v_prediction: sqrt(abar_t) noise - sqrt(1 - abar_t) x_0.
  Tensor target(const Tensor& x0, const Tensor& noise, const Tensor& t) const override;
  /// t, or log(sigma) / 4 as float32 for timestep_type "continuous".
  Tensor model_time(const Tensor& t) const override;
  Tensor weight(const Tensor& t) const override;
  Tensor bound_weight(const Tensor& t) const override;

  TimestepSampler::Draw draw(TimestepSampler& sampler, int64_t count,
                             const std::optional<Generator>& generator,
                             const at::TensorOptions& options) const override;
  Tensor times_at(const Tensor& positions, const at::TensorOptions& options) const override;
  void check_times(const Tensor& t, const char* where) const override;
  bool has_discrete_times() const override { return true; }
  std::string_view log_sigma_reason() const override;
  std::optional<Shares> shares() const override;

 private:
  void weigh(const DiffusionLossOptions& options);

  std::optional<NoiseSchedule> schedule_;  // none: the scheduler's own add_noise and get_velocity
  DeviceTable weights_;                    // float64 [T]; undefined: all are 1
  DeviceTable bound_weights_;              // float64 [T]; undefined: original_elbo_weight is 0
  DeviceTable log_sigma_times_;            // float32 [T]; undefined: the model's timesteps are t
};

/// x_t = (1 - sigma) x_0 + sigma eps, t = sigma T; the model predicts eps - x_0 (Lipman et al. 2023, Liu et
/// al. 2023).
class FlowProcess : public ScheduledProcess {
 public:
  /// @throws ConfigError naming an option that is not defined for flow matching
  FlowProcess(const Scheduler& scheduler, const DiffusionLossOptions& options);

  Tensor noisy(const Tensor& x0, const Tensor& noise, const Tensor& t) const override;
  Tensor target(const Tensor& x0, const Tensor& noise, const Tensor& t) const override;
  Tensor weight(const Tensor& t) const override;

  /// As in SD3's scripts, a drawn timestep is a position in the scheduler's timesteps, from noise to data.
  TimestepSampler::Draw draw(TimestepSampler& sampler, int64_t count,
                             const std::optional<Generator>& generator,
                             const at::TensorOptions& options) const override;
  Tensor times_at(const Tensor& positions, const at::TensorOptions& options) const override;
  void check_times(const Tensor& t, const char* where) const override;
  bool has_discrete_times() const override { return false; }
  std::optional<Shares> shares() const override;

 private:
  double steps() const { return static_cast<double>(scheduler().num_train_timesteps()); }

  DiffusionLossOptions options_;
  double shift_ = 1.0;
  DeviceTable times_;  // the scheduler's timesteps, sigma T, from T down, float32 [T]
};

}  // namespace internal
}  // namespace diffusers
