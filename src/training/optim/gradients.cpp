// Gradient clipping and loss scaling, between the backward pass and the optimizer step.

#include <cmath>
#include <map>
#include <vector>

#include <diffusers/training/grad_scaler.h>
#include <diffusers/training/gradient_clipping.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/require.h"
#include "training/optim/clip_factor.h"
#include "training/optim/update_rule.h"

namespace diffusers {
namespace {

/// Groups the tensors by device and dtype.
std::map<DeviceAndDtype, std::vector<Tensor>> by_device_and_dtype(const std::vector<Tensor>& tensors) {
  std::map<DeviceAndDtype, std::vector<Tensor>> groups;
  for (const Tensor& tensor : tensors) groups[device_and_dtype(tensor)].push_back(tensor);
  return groups;
}

/// Returns the gradients of the parameters that have one.
std::vector<Tensor> gradients(const std::vector<Tensor>& parameters) {
  std::vector<Tensor> grads;
  for (const Tensor& parameter : parameters)
    if (parameter.grad().defined()) grads.push_back(parameter.grad());
  return grads;
}

}  // namespace

Tensor get_total_grad_norm(const std::vector<Tensor>& parameters, double norm_type) {
  const at::NoGradGuard no_grad;
  const std::vector<Tensor> grads = gradients(parameters);
  if (grads.empty()) {
    const at::Device device = parameters.empty() ? at::Device(at::kCPU) : parameters.front().device();
    return at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(device));
  }
  std::vector<Tensor> norms;
  for (const auto& entry : by_device_and_dtype(grads))
    for (const Tensor& norm : at::_foreach_norm(entry.second, norm_type))
      norms.push_back(
          norm.to(grads.front().device(), norm.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  return at::linalg_vector_norm(at::stack(norms), norm_type);
}

Tensor clip_grad_norm_(const std::vector<Tensor>& parameters, double max_norm, double norm_type) {
  const at::NoGradGuard no_grad;
  require<ConfigError>(max_norm >= 0, "max_norm is {}, expected 0 or more", max_norm);
  Tensor total_norm = get_total_grad_norm(parameters, norm_type);
  const Tensor factor = clip_factor(total_norm, max_norm);
  for (const auto& entry : by_device_and_dtype(gradients(parameters)))
    at::_foreach_mul_(entry.second, factor.to(entry.second.front().device()));
  return total_norm;
}

GradScaler::GradScaler(at::Device device, const GradScalerConfig& config) : config_(config) {
  require<ConfigError>(std::isfinite(config.init_scale) && config.init_scale > 0,
                       "init_scale is {}, expected a finite number above 0", config.init_scale);
  require<ConfigError>(config.growth_factor > 1, "growth_factor is {}, expected more than 1",
                       config.growth_factor);
  require<ConfigError>(config.backoff_factor > 0 && config.backoff_factor < 1,
                       "backoff_factor is {}, expected between 0 and 1", config.backoff_factor);
  require<ConfigError>(config.growth_interval > 0, "growth_interval is {}, expected 1 or more",
                       config.growth_interval);
  scale_ = at::full({1}, config.init_scale, at::TensorOptions().dtype(at::kFloat).device(device));
  growth_tracker_ = at::zeros({1}, at::TensorOptions().dtype(at::kInt).device(device));
}

Tensor GradScaler::scale(const Tensor& loss) const { return loss * scale_.squeeze().to(loss.device()); }

Tensor GradScaler::unscale_(const std::vector<Tensor>& parameters) const {
  const at::NoGradGuard no_grad;
  Tensor found_inf = at::zeros_like(scale_);
  const Tensor inverse = scale_.to(at::kDouble).reciprocal().to(at::kFloat);
  for (auto& entry : by_device_and_dtype(gradients(parameters))) {
    require<ConfigError>(entry.first.second != at::kHalf,
                         "a float16 gradient cannot be unscaled: train float32 weights with "
                         "mixed_precision \"fp16\", not float16 weights");
    Tensor found_here = at::zeros({1}, found_inf.options().device(entry.second.front().device()));
    at::_amp_foreach_non_finite_check_and_unscale_(entry.second, found_here, inverse.to(found_here.device()));
    found_inf = at::maximum(found_inf, found_here.to(found_inf.device()));
  }
  return found_inf;
}

void GradScaler::update(const Tensor& found_inf) {
  const at::NoGradGuard no_grad;
  at::_amp_update_scale_(scale_, growth_tracker_, found_inf, config_.growth_factor, config_.backoff_factor,
                         config_.growth_interval);
}

TensorMap GradScaler::state_dict() const { return {{"scale", scale_}, {"growth_tracker", growth_tracker_}}; }

void GradScaler::load_state_dict(const TensorMap& state) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : state_dict()) {
    require<TensorError>(state.contains(name), "GradScaler: the state lacks \"{}\"", name);
    const Tensor& saved = state.at(name);
    require<TensorError>(
        saved.defined() && saved.sizes() == tensor.sizes() && saved.scalar_type() == tensor.scalar_type(),
        "GradScaler: \"{}\" is {}, expected {}", name, describe(saved), describe(tensor));
  }
  const auto scale = state.at("scale").item<double>();
  require<TensorError>(std::isfinite(scale) && scale > 0,
                       "GradScaler: \"scale\" is {}, expected a finite number above 0", scale);
  scale_.copy_(state.at("scale"));
  growth_tracker_.copy_(state.at("growth_tracker"));
}

}  // namespace diffusers
