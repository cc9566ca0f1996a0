#include <vector>

#include <diffusers/training/gradient_clipping.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/require.h"
#include "training/optim/tensor_lists.h"

namespace diffusers {

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
  const Tensor factor = (max_norm / (total_norm + 1e-6)).clamp_max(1.0);
  for (const auto& entry : by_device_and_dtype(gradients(parameters)))
    at::_foreach_mul_(entry.second, factor.to(entry.second.front().device()));
  return total_norm;
}

}  // namespace diffusers
