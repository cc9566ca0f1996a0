#include <cmath>
#include <string_view>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/ops/fused.h>
#include <diffusers/ops/group_norm_silu.h>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/require.h"
#include "ops/cpu/kernels.h"
#include "ops/group_norm_silu_backends.h"
#include "ops/reference.h"

namespace diffusers {
namespace {

void check_group_norm_silu(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                           const at::Tensor& bias, double eps) {
  require<TensorError>(
      x.defined() && at::isFloatingType(x.scalar_type()) && x.dim() >= 3,
      "group_norm_silu: x must be a floating tensor [B, C, ...] of at least 3 dimensions, got {}",
      describe(x));
  const int64_t channels = x.size(1);
  require<TensorError>(num_groups > 0 && channels > 0 && channels % num_groups == 0,
                       "group_norm_silu: num_groups = {} does not divide the {} channels of x {}", num_groups,
                       channels, shape_string(x.sizes()));
  require<TensorError>(std::isfinite(eps) && eps >= 0,
                       "group_norm_silu: eps = {}, expected a finite number >= 0", eps);
  const auto check_vector = [&](std::string_view name, const at::Tensor& vector) {
    require<TensorError>(vector.defined() && vector.dim() == 1 && vector.size(0) == channels,
                         "group_norm_silu: {} must be [{}] for x {}, got {}", name, channels, describe(x),
                         describe(vector));
    const auto dtype = vector.scalar_type();
    const bool fits = dtype == x.scalar_type() ||
                      (dtype == at::kFloat && at::isReducedFloatingType(x.scalar_type())) ||
                      (at::isFloatingType(dtype) && at::autocast::is_autocast_enabled(x.device().type()));
    require<TensorError>(fits && vector.device() == x.device() && dtype == weight.scalar_type(),
                         "group_norm_silu: {} is {}, which does not fit x {} and weight {}", name,
                         describe(vector), describe(x), describe(weight));
  };
  check_vector("weight", weight);
  check_vector("bias", bias);
}

/// Computes the gradients with differentiable operations, for second derivatives.
GroupNormSiluGradients composed_backward(const at::Tensor& grad_y, const at::Tensor& x, int64_t num_groups,
                                         const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const auto by_group = [&](const at::Tensor& tensor) {
    return tensor.flatten(1).unflatten(1, {num_groups, -1});
  };
  std::vector<int64_t> channel_shape(static_cast<std::size_t>(x.dim()), 1);
  channel_shape[1] = x.size(1);
  std::vector<int64_t> other_dims{0};
  for (int64_t d = 2; d < x.dim(); ++d) other_dims.push_back(d);

  const at::Tensor centered = by_group(x) - by_group(x).mean(2, true);
  const at::Tensor rstd = (centered.square().mean(2, true) + eps).rsqrt();
  const at::Tensor normalized = centered * rstd;
  const at::Tensor x_hat = normalized.view_as(x);
  const at::Tensor z = x_hat * weight.view(channel_shape) + bias.view(channel_shape);
  const at::Tensor s = z.sigmoid();
  const at::Tensor grad_z = grad_y * s * (1 + z * (1 - s));
  const at::Tensor grad_hat = by_group(grad_z * weight.view(channel_shape));
  const at::Tensor grad_x =
      rstd * (grad_hat - grad_hat.mean(2, true) - normalized * (grad_hat * normalized).mean(2, true));
  return {grad_x.view_as(x), (grad_z * x_hat).sum(other_dims), grad_z.sum(other_dims)};
}

NormalizedActivation fused(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                           const at::Tensor& bias, double eps) {
#if defined(DIFFUSERS_WITH_CUDA)
  if (x.is_cuda()) return cuda::fused_forward(x, num_groups, weight, bias, eps);
#endif
  return cpu::fused_forward(x, num_groups, weight, bias, eps);
}

GroupNormSiluGradients fused_gradients(const at::Tensor& grad_y, const at::Tensor& x, int64_t num_groups,
                                       const at::Tensor& weight, const at::Tensor& bias,
                                       const at::Tensor& mean, const at::Tensor& rstd) {
#if defined(DIFFUSERS_WITH_CUDA)
  if (x.is_cuda()) return cuda::fused_backward(grad_y, x, num_groups, weight, bias, mean, rstd);
#endif
  return cpu::fused_backward(grad_y, x, num_groups, weight, bias, mean, rstd);
}

class GroupNormSiluFunction : public torch::autograd::Function<GroupNormSiluFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            int64_t num_groups, const at::Tensor& weight, const at::Tensor& bias,
                            double eps) {
    const auto result = fused(x, num_groups, weight, bias, eps);
    context->save_for_backward({x, weight, bias, result.mean, result.rstd});
    context->saved_data["num_groups"] = num_groups;
    context->saved_data["eps"] = eps;
    return result.y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = context->get_saved_variables();
    const int64_t num_groups = context->saved_data["num_groups"].toInt();
    const auto gradients =
        at::GradMode::is_enabled()
            ? composed_backward(grad_outputs[0], saved[0], num_groups, saved[1], saved[2],
                                context->saved_data["eps"].toDouble())
            : fused_gradients(grad_outputs[0], saved[0], num_groups, saved[1], saved[2], saved[3], saved[4]);
    return {gradients.x, at::Tensor(), gradients.weight, gradients.bias, at::Tensor()};
  }
};

bool fits_fused(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const bool contiguous =
      x.layout() == at::kStrided && x.is_contiguous() && weight.is_contiguous() && bias.is_contiguous();
  if (!contiguous || x.numel() == 0) return false;
  const bool all_float = x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat;
  if (x.is_cpu()) return fused_cpu() && cpu::kernels_available() && all_float;
#if defined(DIFFUSERS_WITH_CUDA)
  // Under autocast LibTorch's group norm returns float32 for every input dtype.
  const bool reduced =
      at::isReducedFloatingType(x.scalar_type()) && !at::autocast::is_autocast_enabled(at::kCUDA);
  if (x.is_cuda()) return fused_cuda() && (all_float || reduced);
#endif
  return false;
}

}  // namespace

inline namespace internal {
namespace reference {

at::Tensor group_norm_silu(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                           const at::Tensor& bias, double eps) {
  // LibTorch's CUDA kernel does not accept float32 parameters with a half-precision input.
  const bool mixed = x.scalar_type() != weight.scalar_type() && !x.is_cpu() &&
                     !at::autocast::is_autocast_enabled(x.device().type());
  if (mixed)
    return at::silu(at::group_norm(x.to(weight.scalar_type()), num_groups, weight, bias, eps))
        .to(x.scalar_type());
  return at::silu(at::group_norm(x, num_groups, weight, bias, eps));
}

}  // namespace reference
}  // namespace internal

at::Tensor group_norm_silu(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                           const at::Tensor& bias, double eps) {
  check_group_norm_silu(x, num_groups, weight, bias, eps);
  if (!fits_fused(x, weight, bias)) return reference::group_norm_silu(x, num_groups, weight, bias, eps);
  const bool tracked =
      at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad() || bias.requires_grad());
  if (!tracked) return fused(x, num_groups, weight, bias, eps).y;
  return GroupNormSiluFunction::apply(x, num_groups, weight, bias, eps);
}

}  // namespace diffusers
