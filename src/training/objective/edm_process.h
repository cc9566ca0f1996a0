#pragma once

#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/training/edm_preconditioner.h>

#include "training/objective/forward_process.h"

namespace diffusers {
inline namespace internal {

/// x_t = x_0 + sigma n, t = sigma, with log(sigma) ~ N(p_mean, p_std^2) (Karras et al. 2022, arXiv
/// 2206.00364, table 1). The model is the F of an EDMPreconditioner.
class EDMProcess : public ForwardProcess {
 public:
  /// @param scheduler scheduler that samples from the trained model; its sigma_data is used
  /// @throws ConfigError naming p_mean or p_std if it is out of range
  EDMProcess(const EDMEulerScheduler& scheduler, double p_mean, double p_std);

  Tensor noisy(const Tensor& x0, const Tensor& noise, const Tensor& sigma) const override;
  Tensor target(const Tensor& x0, const Tensor& noise, const Tensor& sigma) const override;
  Tensor model_input(const Tensor& x_t, const Tensor& sigma) const override;
  Tensor model_time(const Tensor& sigma) const override;
  /// All 1: the squared error of F is lambda times that of the denoised sample, since lambda c_out^2 = 1.
  Tensor weight(const Tensor& sigma) const override;

  TimestepSampler::Draw draw(TimestepSampler& sampler, int64_t count,
                             const std::optional<Generator>& generator,
                             const at::TensorOptions& options) const override;
  /// Returns true, as EDM's code draws sigma first.
  bool draws_times_first() const override { return true; }
  /// Returns quantiles of the distribution of sigma. Positions are clamped to [1e-6, 1 - 1e-6].
  Tensor times_at(const Tensor& positions, const at::TensorOptions& options) const override;
  void check_times(const Tensor& sigma, const char* where) const override;
  bool has_discrete_times() const override { return false; }
  std::string_view log_sigma_reason() const override { return "EDM"; }
  Tensor log_variance_time(const Tensor& sigma) const override;
  const Scheduler& scheduler() const override { return scheduler_; }
  PredictionType prediction_type() const override { return PredictionType::kEpsilon; }

 private:
  EDMEulerScheduler scheduler_;
  EDMPreconditioner preconditioner_;
  double p_mean_;
  double p_std_;
};

}  // namespace internal
}  // namespace diffusers
