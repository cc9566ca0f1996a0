#include "training/objective/sigma_process.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include <ATen/ATen.h>

#include "schedulers/sigma_math.h"

namespace diffusers {
inline namespace internal {

SigmaProcess::SigmaProcess(const EulerDiscreteScheduler& scheduler, const DiffusionLossOptions& options)
    : VariancePreservingProcess(scheduler, scheduler.prediction_type(), options),
      sigmas_(training_sigma_tensor(scheduler.noise_schedule()->alphas_cumprod())) {}

Tensor SigmaProcess::sigmas_for(const Tensor& t, const Tensor& sample) const {
  std::vector<int64_t> shape(static_cast<std::size_t>(sample.dim()), 1);
  shape[0] = t.size(0);
  return sigmas_.on(sample.device(), sample.scalar_type()).index_select(0, t).view(shape);
}

Tensor SigmaProcess::noisy(const Tensor& x0, const Tensor& noise, const Tensor& t) const {
  return x0 + noise * sigmas_for(t, x0);
}

Tensor SigmaProcess::model_input(const Tensor& x_t, const Tensor& t) const {
  return x_t / (sigmas_for(t, x_t).square() + 1).sqrt();
}

}  // namespace internal
}  // namespace diffusers
