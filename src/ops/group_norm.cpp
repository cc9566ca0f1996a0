#include <cmath>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/ops/fused.h>
#include <diffusers/ops/group_norm.h>
#include <diffusers/ops/group_norm_silu.h>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/require.h"
#include "ops/cpu/kernels.h"
#include "ops/group_norm_call.h"
#include "ops/optional_tensor.h"
#include "ops/reference.h"
#include "ops/tokens.h"

namespace diffusers {
namespace {

void check_parameters(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t channels = x.size(1);
  const auto dtype = (weight.defined() ? weight : bias.defined() ? bias : x).scalar_type();
  const auto check_vector = [&](std::string_view name, const at::Tensor& vector) {
    if (!vector.defined()) return;
    require<TensorError>(vector.dim() == 1 && vector.size(0) == channels,
                         "group_norm: {} must be [{}] for x {}, got {}", name, channels, describe(x),
                         describe(vector));
    const bool fits = dtype == x.scalar_type() ||
                      (dtype == at::kFloat && at::isReducedFloatingType(x.scalar_type())) ||
                      (at::isFloatingType(dtype) && at::autocast::is_autocast_enabled(x.device().type()));
    require<TensorError>(fits && vector.device() == x.device() && dtype == vector.scalar_type(),
                         "group_norm: {} is {}, which does not fit x {} and weight {}", name,
                         describe(vector), describe(x), describe(weight));
  };
  check_vector("weight", weight);
  check_vector("bias", bias);
}

/// Views `[C]` or `[B, C]` such that it broadcasts to x.
at::Tensor over_positions(const at::Tensor& values, const at::Tensor& x) {
  std::vector<int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  shape[1] = values.size(-1);
  if (values.dim() == 2) shape[0] = values.size(0);
  return values.reshape(shape);
}

}  // namespace

inline namespace internal {

void check_group_norm(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                      const at::Tensor& bias, const GroupNormOptions& options) {
  require<TensorError>(x.defined() && at::isFloatingType(x.scalar_type()) && x.dim() >= 3,
                       "group_norm: x must be a floating tensor [B, C, ...] of at least 3 dimensions, got {}",
                       describe(x));
  const int64_t channels = x.size(1);
  require<TensorError>(num_groups > 0 && channels > 0 && channels % num_groups == 0,
                       "group_norm: num_groups = {} does not divide the {} channels of x {}", num_groups,
                       channels, shape_string(x.sizes()));
  require<TensorError>(std::isfinite(options.eps) && options.eps >= 0,
                       "group_norm: eps = {}, expected a finite number >= 0", options.eps);
  check_parameters(x, weight, bias);
  const auto check_values = [&](std::string_view name, const at::Tensor& values) {
    if (!values.defined()) return;
    require<TensorError>(values.dim() == 2 && (values.size(0) == x.size(0) || values.size(0) == 1) &&
                             values.size(1) == channels && at::isFloatingType(values.scalar_type()) &&
                             values.device() == x.device(),
                         "group_norm: {} must be a floating tensor [{}, {}] on the device of x {}, got {}",
                         name, x.size(0), channels, describe(x), describe(values));
  };
  check_values("offset", options.offset);
  check_values("scale", options.scale);
  check_values("shift", options.shift);
  require<TensorError>(options.scale.defined() == options.shift.defined(),
                       "group_norm: scale is {} and shift is {}, expected both or none",
                       describe(options.scale), describe(options.shift));
}

at::Tensor composed_norm(const at::Tensor& x, const GroupNormCall& call) {
  const at::Tensor input = call.offset.defined() ? x + over_positions(call.offset, x) : x;
  const at::Tensor x_hat = at::group_norm(input, call.num_groups, std::nullopt, std::nullopt, call.eps);
  const at::Tensor z = x_hat * over_positions(call.weight, x) + over_positions(call.bias, x);
  return call.silu ? at::silu(z) : z;
}

GroupNormGradients composed_norm_gradients(const at::Tensor& grad_y, const at::Tensor& x,
                                           const GroupNormCall& call) {
  const auto by_group = [&](const at::Tensor& tensor) {
    return tensor.flatten(1).unflatten(1, {call.num_groups, -1});
  };
  std::vector<int64_t> positions;
  for (int64_t d = 2; d < x.dim(); ++d) positions.push_back(d);
  std::vector<int64_t> shared = positions;  // dimensions over which weight and bias are shared
  if (call.weight.dim() == 1) shared.push_back(0);

  const at::Tensor input = call.offset.defined() ? x + over_positions(call.offset, x) : x;
  const at::Tensor weight = over_positions(call.weight, x);
  const at::Tensor centered = by_group(input) - by_group(input).mean(2, true);
  const at::Tensor rstd = (centered.square().mean(2, true) + call.eps).rsqrt();
  const at::Tensor normalized = centered * rstd;
  const at::Tensor x_hat = normalized.view_as(x);
  at::Tensor grad_z = call.tokens ? grad_y.transpose(1, 2).reshape(x.sizes()) : grad_y;
  if (call.silu) {
    const at::Tensor z = x_hat * weight + over_positions(call.bias, x);
    const at::Tensor s = z.sigmoid();
    grad_z = grad_z * s * (1 + z * (1 - s));
  }
  const at::Tensor grad_hat = by_group(grad_z * weight);
  const at::Tensor grad_x =
      rstd * (grad_hat - grad_hat.mean(2, true) - normalized * (grad_hat * normalized).mean(2, true));
  GroupNormGradients result{
      .x = grad_x.view_as(x), .weight = (grad_z * x_hat).sum(shared), .bias = grad_z.sum(shared)};
  if (call.offset.defined()) result.offset = result.x.sum(positions);
  return result;
}

bool fits_fused_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto fits = [](const at::Tensor& tensor) {
    return !tensor.defined() || (tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided);
  };
  return x.is_cpu() && x.numel() > 0 && fits(x) && fits(weight) && fits(bias) && fused_cpu() &&
         cpu::kernels_available();
}

/// Combines scale and shift with weight and bias: (x_hat w + b) (1 + s) + t = x_hat w (1 + s) + b (1 + s) +
/// t.
GroupNormCall make_group_norm_call(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                                   const at::Tensor& bias, const GroupNormOptions& options) {
  const at::IntArrayRef per_channel = x.sizes().slice(1, 1);
  const auto per_image = [&](const at::Tensor& values) {
    return values.expand({x.size(0), x.size(1)}).to(at::kFloat).contiguous();
  };
  GroupNormCall call{.num_groups = num_groups,
                     .eps = options.eps,
                     .silu = options.silu,
                     .weight = weight.defined() ? weight.contiguous() : at::ones(per_channel, x.options()),
                     .bias = bias.defined() ? bias.contiguous() : at::zeros(per_channel, x.options())};
  if (options.scale.defined()) {
    const at::Tensor factor = 1 + options.scale;
    call.bias = per_image(bias.defined() ? bias * factor + options.shift : options.shift);
    call.weight = per_image(weight.defined() ? weight * factor : factor);
  }
  if (options.offset.defined()) call.offset = per_image(options.offset);
  return call;
}

}  // namespace internal

namespace {

NormalizedActivation fused_norm(const at::Tensor& x, const GroupNormCall& call) {
#if defined(DIFFUSERS_WITH_CUDA)
  if (x.is_cuda()) return cuda::fused_forward(x, call);
#endif
  return cpu::fused_forward(x, call);
}

GroupNormGradients fused_norm_gradients(const at::Tensor& grad_y, const at::Tensor& x,
                                        const GroupNormCall& call, const at::Tensor& mean,
                                        const at::Tensor& rstd) {
#if defined(DIFFUSERS_WITH_CUDA)
  if (x.is_cuda()) return cuda::fused_backward(grad_y, x, call, mean, rstd);
#endif
  return cpu::fused_backward(grad_y, x, call, mean, rstd);
}

class GroupNormFunction : public torch::autograd::Function<GroupNormFunction> {
 public:
  /// The tensors of `call` are arguments of their own, so that they are inputs of the graph.
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& bias,
                            const std::optional<at::Tensor>& /*offset*/, const GroupNormCall& call) {
    const auto result = fused_norm(x, call);
    context->save_for_backward({x, weight, bias, call.offset, result.mean, result.rstd});
    context->saved_data["num_groups"] = call.num_groups;
    context->saved_data["eps"] = call.eps;
    context->saved_data["silu"] = call.silu;
    context->saved_data["tokens"] = call.tokens;
    return result.y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = context->get_saved_variables();
    const GroupNormCall call{.num_groups = context->saved_data["num_groups"].toInt(),
                             .eps = context->saved_data["eps"].toDouble(),
                             .silu = context->saved_data["silu"].toBool(),
                             .tokens = context->saved_data["tokens"].toBool(),
                             .weight = saved[1],
                             .bias = saved[2],
                             .offset = saved[3]};
    const auto gradients = at::GradMode::is_enabled()
                               ? composed_norm_gradients(grad_outputs[0], saved[0], call)
                               : fused_norm_gradients(grad_outputs[0], saved[0], call, saved[4], saved[5]);
    return {gradients.x, gradients.weight, gradients.bias, gradients.offset, at::Tensor()};
  }
};

at::Tensor run_fused_norm(const at::Tensor& x, const GroupNormCall& call) {
  const bool tracked = at::GradMode::is_enabled() &&
                       (x.requires_grad() || call.weight.requires_grad() || call.bias.requires_grad() ||
                        (call.offset.defined() && call.offset.requires_grad()));
  if (!tracked) return fused_norm(x, call).y;
  return GroupNormFunction::apply(x, call.weight, call.bias, optional_tensor(call.offset), call);
}

#if defined(DIFFUSERS_WITH_CUDA)
/// The CUDA kernels compute float32, float16 and bfloat16. Under autocast y has the dtype of x, where
/// LibTorch's group norm gives float32, which the next convolution or linear layer rounds to that dtype.
bool fits_fused_cuda(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                     const at::Tensor& bias) {
  constexpr int64_t kMostElements = std::numeric_limits<int32_t>::max();
  const auto fits = [](const at::Tensor& tensor) {
    return !tensor.defined() || (tensor.layout() == at::kStrided && tensor.scalar_type() != at::kDouble);
  };
  return x.is_cuda() && fused_cuda() && x.numel() > 0 && fits(x) && fits(weight) && fits(bias) &&
         x.numel() / (x.size(0) * num_groups) <= kMostElements;
}

/// Runs the CUDA kernels in the layout of x. The offset is added by LibTorch.
at::Tensor run_cuda_norm(const at::Tensor& x, const GroupNormCall& call) {
  GroupNormCall plain = call;
  plain.offset = at::Tensor();
  const at::Tensor input = call.offset.defined() ? x + over_positions(call.offset, x).to(x.scalar_type()) : x;
  const bool is_channels_last = input.is_contiguous(at::MemoryFormat::ChannelsLast);
  return run_fused_norm(is_channels_last ? input : input.contiguous(), plain);
}
#endif

}  // namespace

inline namespace internal {
namespace reference {

at::Tensor group_norm(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                      const at::Tensor& bias, const GroupNormOptions& options) {
  const at::Tensor input = options.offset.defined() ? x + over_positions(options.offset, x) : x;
  // LibTorch's CUDA kernel does not accept float32 parameters with a half-precision input.
  const bool mixed = weight.defined() && input.scalar_type() != weight.scalar_type() && !x.is_cpu() &&
                     !at::autocast::is_autocast_enabled(x.device().type());
  at::Tensor y = at::group_norm(mixed ? input.to(weight.scalar_type()) : input, num_groups,
                                optional_tensor(weight), optional_tensor(bias), options.eps);
  if (options.scale.defined())
    y = y * (1 + over_positions(options.scale, x)) + over_positions(options.shift, x);
  if (options.silu) y = at::silu(y);
  return mixed ? y.to(x.scalar_type()) : y;
}

at::Tensor group_norm_silu(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                           const at::Tensor& bias, double eps) {
  return group_norm(x, num_groups, weight, bias, {.eps = eps, .silu = true});
}

}  // namespace reference

at::Tensor group_norm_tokens(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                             const at::Tensor& bias, double eps) {
  check_group_norm(x, num_groups, weight, bias, {.eps = eps});
  if (!fits_fused_norm(x, weight, bias))
    return image_to_tokens(group_norm(x, num_groups, weight, bias, {.eps = eps}));
  GroupNormCall call = make_group_norm_call(x, num_groups, weight, bias, {.eps = eps});
  call.tokens = true;
  return run_fused_norm(x.contiguous(), call);
}

}  // namespace internal

at::Tensor group_norm(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                      const at::Tensor& bias, const GroupNormOptions& options) {
  check_group_norm(x, num_groups, weight, bias, options);
#if defined(DIFFUSERS_WITH_CUDA)
  if (fits_fused_cuda(x, num_groups, weight, bias))
    return run_cuda_norm(x, make_group_norm_call(x, num_groups, weight, bias, options));
#endif
  if (!fits_fused_norm(x, weight, bias)) return reference::group_norm(x, num_groups, weight, bias, options);
  return run_fused_norm(x.contiguous(), make_group_norm_call(x, num_groups, weight, bias, options));
}

at::Tensor group_norm_silu(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                           const at::Tensor& bias, double eps) {
  require<TensorError>(weight.defined() && bias.defined(),
                       "group_norm_silu: weight and bias must be [C], got {} and {}", describe(weight),
                       describe(bias));
  return group_norm(x, num_groups, weight, bias, {.eps = eps, .silu = true});
}

}  // namespace diffusers
