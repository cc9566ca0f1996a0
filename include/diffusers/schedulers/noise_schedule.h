#pragma once

#include <cstdint>
#include <memory>

#include <diffusers/schedulers/beta_schedule.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The variance-preserving forward process in discrete time: betas, abar_t, noising and velocities.
/// Immutable; copies share their tables.
class NoiseSchedule {
 public:
  /// Makes the schedule of a default config: 1000 linear betas.
  NoiseSchedule() : NoiseSchedule(BetaOptions{}) {}
  /// Makes the schedule of a scheduler's config.
  /// @param options the fields of the config that define its betas
  /// @throws ConfigError as `make_betas`
  explicit NoiseSchedule(const BetaOptions& options);
  /// Makes a schedule of given betas.
  /// @param betas float32 `[T]` on the CPU
  /// @param alphas_cumprod float32 `[T]` on the CPU; undefined: the cumulative product of 1 - betas
  NoiseSchedule(at::Tensor betas, at::Tensor alphas_cumprod);

  /// Returns beta_t, float32 `[T]` on the CPU.
  const at::Tensor& betas() const { return betas_; }
  /// Returns abar_t = prod_{s <= t} (1 - beta_s), float32 `[T]` on the CPU.
  const at::Tensor& alphas_cumprod() const { return alphas_cumprod_; }
  /// Returns the number of training timesteps T.
  int64_t size() const { return alphas_cumprod_.size(0); }
  /// Returns abar_t as a number.
  /// @param t timestep, 0 to T - 1
  /// @throws TensorError if t is out of range
  float alpha_bar(int64_t t) const;
  /// Returns beta_t as a number.
  /// @param t timestep, 0 to T - 1
  /// @throws TensorError if t is out of range
  float beta(int64_t t) const;

  /// Adds noise to clean samples: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho et al. 2020, eq. 4).
  /// @param original_samples x_0 `[B, ...]`, floating
  /// @param noise eps, shape, dtype and device of x_0
  /// @param timesteps t `[B]`, or `[1]` for all samples, integral, each in [0, T)
  /// @return x_t, shape and dtype of x_0
  /// @throws TensorError on a shape, dtype or range mismatch, naming the expected and the actual value
  at::Tensor add_noise(const at::Tensor& original_samples, const at::Tensor& noise,
                       const at::Tensor& timesteps) const;
  /// Computes the target of v-prediction: v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans and Ho 2022,
  /// appendix D).
  /// @param sample x_0 `[B, ...]`, floating
  /// @param noise eps, shape, dtype and device of x_0
  /// @param timesteps t `[B]`, or `[1]` for all samples, integral, each in [0, T)
  /// @return v, shape and dtype of x_0
  /// @throws TensorError on a shape, dtype or range mismatch, naming the expected and the actual value
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
