#pragma once

// The forward process in the coordinates x_0 + sigma eps.

#include <diffusers/schedulers/device_table.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>

#include "training/objective/scheduled_process.h"

namespace diffusers {
inline namespace internal {

/// x_t = x_0 + sigma_t eps, and the model's input is x_t / sqrt(sigma_t^2 + 1), with the float32 sigmas of an
/// EulerDiscreteScheduler, as in diffusers' `train_t2i_adapter_sdxl.py`.
///
/// This is the process of VariancePreservingProcess with other rounding. The script weighs the squared error
/// of the denoised sample x_t - sigma_t eps_theta with 1 / sigma_t^2, which is the squared error of
/// eps_theta.
class SigmaProcess : public VariancePreservingProcess {
 public:
  /// @throws ConfigError if the weights of a timestep are not finite
  SigmaProcess(const EulerDiscreteScheduler& scheduler, const DiffusionLossOptions& options);

  Tensor noisy(const Tensor& x0, const Tensor& noise, const Tensor& t) const override;
  Tensor model_input(const Tensor& x_t, const Tensor& t) const override;

 private:
  /// Sigmas `[B, 1, ...]` in the dtype of `sample`.
  Tensor sigmas_for(const Tensor& t, const Tensor& sample) const;

  DeviceTable sigmas_;  // float32 [T], by training timestep
};

}  // namespace internal
}  // namespace diffusers
