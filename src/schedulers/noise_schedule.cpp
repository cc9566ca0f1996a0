#include <mutex>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/noise_schedule.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/require.h"
#include "schedulers/step_math.h"

namespace diffusers {

struct NoiseSchedule::Coefficients {
  at::Tensor sqrt_alpha_bar;
  at::Tensor sqrt_one_minus_alpha_bar;
};

struct NoiseSchedule::DeviceTables {
  std::mutex mutex;
  std::vector<Coefficients> entries;  // rarely more than two, so a linear search is enough
};

NoiseSchedule::NoiseSchedule(const BetaOptions& options) : NoiseSchedule(make_betas(options), {}) {}

NoiseSchedule::NoiseSchedule(at::Tensor betas, at::Tensor alphas_cumprod)
    : betas_(std::move(betas)),
      alphas_cumprod_(std::move(alphas_cumprod)),
      tables_(std::make_shared<DeviceTables>()) {
  if (!alphas_cumprod_.defined()) alphas_cumprod_ = (1.0 - betas_).cumprod(0);
}

float NoiseSchedule::alpha_bar(int64_t t) const {
  require<TensorError>(t >= 0 && t < size(), "timestep is {}, expected 0 to {}", t, size() - 1);
  return alphas_cumprod_.const_data_ptr<float>()[t];
}

float NoiseSchedule::beta(int64_t t) const {
  require<TensorError>(t >= 0 && t < size(), "timestep is {}, expected 0 to {}", t, size() - 1);
  return betas_.const_data_ptr<float>()[t];
}

NoiseSchedule::Coefficients NoiseSchedule::coefficients(const at::Tensor& sample, const at::Tensor& noise,
                                                        const at::Tensor& timesteps) const {
  require_noisable(sample, noise);
  const at::Tensor indices = per_sample_timesteps(timesteps, sample, size());
  Coefficients tables;
  {
    const std::lock_guard lock(tables_->mutex);
    for (const auto& entry : tables_->entries)
      if (entry.sqrt_alpha_bar.device() == sample.device() &&
          entry.sqrt_alpha_bar.scalar_type() == sample.scalar_type())
        tables = entry;
    if (!tables.sqrt_alpha_bar.defined()) {
      const at::NoGradGuard no_grad;
      // As in Python, rounded to the dtype of the samples before the square roots.
      const at::Tensor alphas =
          alphas_cumprod_.to(sample.device(), sample.scalar_type(), /*non_blocking=*/true);
      tables = tables_->entries.emplace_back(Coefficients{alphas.sqrt(), (1 - alphas).sqrt()});
    }
  }
  return {per_sample(tables.sqrt_alpha_bar, indices, sample.dim()),
          per_sample(tables.sqrt_one_minus_alpha_bar, indices, sample.dim())};
}

at::Tensor NoiseSchedule::add_noise(const at::Tensor& original_samples, const at::Tensor& noise,
                                    const at::Tensor& timesteps) const {
  const auto [sqrt_alpha_bar, sqrt_one_minus_alpha_bar] = coefficients(original_samples, noise, timesteps);
  return sqrt_alpha_bar * original_samples + sqrt_one_minus_alpha_bar * noise;
}

at::Tensor NoiseSchedule::get_velocity(const at::Tensor& sample, const at::Tensor& noise,
                                       const at::Tensor& timesteps) const {
  const auto [sqrt_alpha_bar, sqrt_one_minus_alpha_bar] = coefficients(sample, noise, timesteps);
  return sqrt_alpha_bar * noise - sqrt_one_minus_alpha_bar * sample;
}

}  // namespace diffusers
