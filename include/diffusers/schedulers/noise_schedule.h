#pragma once

#include <cstdint>
#include <memory>

#include <diffusers/schedulers/beta_schedule.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The forward process of a discrete-time diffusion model: betas, abar_t, and what follows from them for each
/// sample of a batch. Immutable; copies share their tables.
class NoiseSchedule {
 public:
  NoiseSchedule() : NoiseSchedule(BetaOptions{}) {}
  explicit NoiseSchedule(const BetaOptions& options);
  NoiseSchedule(at::Tensor betas, at::Tensor alphas_cumprod);

  /// float32 `[T]` on the CPU
  const at::Tensor& betas() const { return betas_; }
  /// abar_t = prod_{s <= t} (1 - beta_s), float32 `[T]` on the CPU
  const at::Tensor& alphas_cumprod() const { return alphas_cumprod_; }
  int64_t size() const { return alphas_cumprod_.size(0); }
  /// abar_t on the host. @throws TensorError unless 0 <= t < T
  float alpha_bar(int64_t t) const;
  float beta(int64_t t) const;

  /// sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, one t for each sample (Ho et al. 2020, eq. 4)
  at::Tensor add_noise(const at::Tensor& original_samples, const at::Tensor& noise,
                       const at::Tensor& timesteps) const;
  /// v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans and Ho 2022, section 4 and appendix D)
  at::Tensor get_velocity(const at::Tensor& sample, const at::Tensor& noise,
                          const at::Tensor& timesteps) const;

 private:
  struct Coefficients;
  struct DeviceTables;
  /// sqrt(abar_t) and sqrt(1 - abar_t) of each sample, shaped to broadcast over `sample`.
  Coefficients coefficients(const at::Tensor& sample, const at::Tensor& noise,
                            const at::Tensor& timesteps) const;

  at::Tensor betas_;
  at::Tensor alphas_cumprod_;
  std::shared_ptr<DeviceTables> tables_;  // made on first use, by device and dtype
};

}  // namespace diffusers
