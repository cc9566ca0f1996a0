#include "training/objective/edm_process.h"

#include <cmath>

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/objective/per_sample.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr double kLeastPosition = 1e-6;

}  // namespace

EDMProcess::EDMProcess(const EDMEulerScheduler& scheduler, double p_mean, double p_std)
    : scheduler_(scheduler), preconditioner_(scheduler.config().sigma_data), p_mean_(p_mean), p_std_(p_std) {
  require<ConfigError>(std::isfinite(p_mean), "p_mean is {}, expected a finite number", p_mean);
  require<ConfigError>(std::isfinite(p_std) && p_std > 0, "p_std is {}, expected a positive number", p_std);
}

Tensor EDMProcess::noisy(const Tensor& x0, const Tensor& noise, const Tensor& sigma) const {
  return x0 + over_samples(sigma, x0) * noise;
}

Tensor EDMProcess::target(const Tensor& x0, const Tensor& noise, const Tensor& sigma) const {
  return preconditioner_.target(x0, noise, sigma);
}

Tensor EDMProcess::model_input(const Tensor& x_t, const Tensor& sigma) const {
  return preconditioner_.precondition_inputs(x_t, sigma);
}

Tensor EDMProcess::model_time(const Tensor& sigma) const { return preconditioner_.c_noise(sigma); }

Tensor EDMProcess::weight(const Tensor&) const { return {}; }

TimestepSampler::Draw EDMProcess::draw(TimestepSampler&, int64_t count,
                                       const std::optional<Generator>& generator,
                                       const at::TensorOptions& options) const {
  return {.timesteps = (p_mean_ + p_std_ * at::randn({count}, generator, options)).exp()};
}

Tensor EDMProcess::times_at(const Tensor& positions, const at::TensorOptions& options) const {
  const Tensor quantile = positions.to(at::kDouble).clamp(kLeastPosition, 1 - kLeastPosition);
  return (p_mean_ + p_std_ * at::special_ndtri(quantile)).exp().to(options);
}

void EDMProcess::check_times(const Tensor& sigma, const char* where) const {
  require<TensorError>(sigma.defined() && at::isFloatingType(sigma.scalar_type()),
                       "{}: sigma is {}, expected a floating tensor", where, describe(sigma));
}

Tensor EDMProcess::log_variance_time(const Tensor& sigma) const { return preconditioner_.c_noise(sigma); }

}  // namespace internal
}  // namespace diffusers
