#include <cmath>

#include <diffusers/training/edm_preconditioner.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/objective/per_sample.h"

namespace diffusers {
namespace {

void require_samples(const char* where, const Tensor& samples, const Tensor& sigma) {
  require<TensorError>(samples.defined() && samples.dim() > 0 && at::isFloatingType(samples.scalar_type()),
                       "{}: the samples are {}, expected a floating tensor [B, ...]", where,
                       describe(samples));
  require<TensorError>(
      sigma.defined() && at::isFloatingType(sigma.scalar_type()) &&
          (sigma.dim() == 0 ||
           (sigma.dim() == 1 && sigma.size(0) == samples.size(0) && sigma.device() == samples.device())),
      "{}: sigma is {}, the samples are {}; expected one floating number, or one for each sample", where,
      describe(sigma), describe(samples));
}

void require_same_shape(const char* where, const char* name, const Tensor& tensor, const Tensor& samples) {
  require<TensorError>(
      tensor.defined() && tensor.sizes() == samples.sizes() && tensor.device() == samples.device(),
      "{}: {} is {}, the samples are {}; both must be of one shape, on one device", where, name,
      describe(tensor), describe(samples));
}

}  // namespace

EDMPreconditioner::EDMPreconditioner(double sigma_data) : sigma_data_(sigma_data) {
  require<ConfigError>(std::isfinite(sigma_data) && sigma_data > 0,
                       "sigma_data is {}, expected a positive number", sigma_data);
}

Tensor EDMPreconditioner::c_skip(const Tensor& sigma) const {
  return sigma_data_ * sigma_data_ / (sigma * sigma + sigma_data_ * sigma_data_);
}

Tensor EDMPreconditioner::c_out(const Tensor& sigma) const {
  return sigma * sigma_data_ / (sigma * sigma + sigma_data_ * sigma_data_).sqrt();
}

Tensor EDMPreconditioner::c_in(const Tensor& sigma) const {
  return 1 / (sigma * sigma + sigma_data_ * sigma_data_).sqrt();
}

Tensor EDMPreconditioner::c_noise(const Tensor& sigma) const { return 0.25 * sigma.log(); }

Tensor EDMPreconditioner::loss_weight(const Tensor& sigma) const {
  return (sigma * sigma + sigma_data_ * sigma_data_) / (sigma * sigma_data_).square();
}

Tensor EDMPreconditioner::precondition_inputs(const Tensor& sample, const Tensor& sigma) const {
  require_samples("precondition_inputs", sample, sigma);
  return sample * over_samples(c_in(sigma), sample);
}

Tensor EDMPreconditioner::precondition_outputs(const Tensor& sample, const Tensor& model_output,
                                               const Tensor& sigma) const {
  constexpr const char* kWhere = "precondition_outputs";
  require_samples(kWhere, sample, sigma);
  require_same_shape(kWhere, "the model's output", model_output, sample);
  return over_samples(c_skip(sigma), sample) * sample + over_samples(c_out(sigma), sample) * model_output;
}

Tensor EDMPreconditioner::target(const Tensor& x0, const Tensor& noise, const Tensor& sigma) const {
  require_samples("target", x0, sigma);
  require_same_shape("target", "the noise", noise, x0);
  const Tensor scale = c_in(sigma);
  return over_samples(scale * sigma / sigma_data_, x0) * x0 - over_samples(scale * sigma_data_, x0) * noise;
}

Tensor EDMPreconditioner::denoise(const Denoiser& model, const Tensor& noisy, const Tensor& sigma,
                                  const Conditioning& conditioning) const {
  const Tensor input = precondition_inputs(noisy, sigma);
  const Tensor timesteps = c_noise(sigma).to(noisy.device(), noisy.scalar_type()).expand({noisy.size(0)});
  return precondition_outputs(noisy, model(input, timesteps, conditioning), sigma).to(noisy.scalar_type());
}

}  // namespace diffusers
