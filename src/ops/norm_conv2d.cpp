#include "ops/norm_conv2d.h"

#include <cstddef>
#include <optional>

#include <diffusers/ops/conv2d.h>
#include <diffusers/ops/fused.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/conv2d_passes.h"
#include "ops/group_norm_call.h"
#include "ops/optional_tensor.h"

namespace diffusers {
namespace {

class NormConv2dFunction : public torch::autograd::Function<NormConv2dFunction> {
 public:
  /// The tensors of `call` are arguments of their own, so that they are inputs of the graph.
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& norm_weight, const at::Tensor& norm_bias,
                            const std::optional<at::Tensor>& /*offset*/, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, const GroupNormCall& call) {
    const auto normed = cpu::fused_forward(x, call);
    context->save_for_backward({x, norm_weight, norm_bias, call.offset, normed.mean, normed.rstd, weight});
    context->saved_data["num_groups"] = call.num_groups;
    context->saved_data["eps"] = call.eps;
    context->saved_data["silu"] = call.silu;
    context->saved_data["bias"] = bias.has_value();
    return conv2d_output(normed.y, weight, bias.value_or(at::Tensor()));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[6];
    const GroupNormCall call{.num_groups = context->saved_data["num_groups"].toInt(),
                             .eps = context->saved_data["eps"].toDouble(),
                             .silu = context->saved_data["silu"].toBool(),
                             .weight = saved[1],
                             .bias = saved[2],
                             .offset = saved[3]};
    // An absent offset has no edge.
    const bool has_offset = call.offset.defined();
    const std::size_t weight_edge = has_offset ? 4 : 3;
    bool needs_norm = false;
    for (std::size_t edge = 0; edge < weight_edge; ++edge)
      needs_norm = needs_norm || context->needs_input_grad(edge);
    const Conv2dMask mask{needs_norm, context->needs_input_grad(weight_edge),
                          context->saved_data["bias"].toBool() && context->needs_input_grad(weight_edge + 1)};
    Conv2dGradients conv;
    GroupNormGradients norm;
    if (at::GradMode::is_enabled()) {
      conv = conv2d_direct_gradients(grad_outputs[0], composed_norm(x, call), weight, mask);
      if (needs_norm) norm = composed_norm_gradients(std::get<0>(conv), x, call);
    } else {
      // The other gradients need only the sizes of the norm's result.
      const at::Tensor y = mask[1] ? cpu::fused_apply(x, call, saved[4], saved[5]) : x;
      conv = conv2d_gradients(grad_outputs[0], y, weight, mask);
      if (needs_norm)
        norm = cpu::fused_backward(std::get<0>(conv), x, call, saved[4], saved[5], /*in_place=*/true);
    }
    return {norm.x, norm.weight, norm.bias, norm.offset, std::get<1>(conv), std::get<2>(conv), at::Tensor()};
  }
};

bool needs_gradients(const at::Tensor& x, const GroupNormCall& call, const Conv2dParameters& convolution) {
  const auto requires_grad = [](const at::Tensor& tensor) {
    return tensor.defined() && tensor.requires_grad();
  };
  return at::GradMode::is_enabled() &&
         (requires_grad(x) || requires_grad(call.weight) || requires_grad(call.bias) ||
          requires_grad(call.offset) || requires_grad(convolution.weight) || requires_grad(convolution.bias));
}

}  // namespace

inline namespace internal {

at::Tensor group_norm_conv2d(at::Tensor x, int64_t num_groups, const at::Tensor& weight,
                             const at::Tensor& bias, const GroupNormOptions& options,
                             const Conv2dParameters& convolution) {
  check_group_norm(x, num_groups, weight, bias, options);
  const at::Tensor& filter = convolution.weight;
  const at::Tensor& conv_bias = convolution.bias;
  if (x.dim() == 4 && fits_fused_norm(x, weight, bias) && filter.dim() == 4 && filter.size(1) == x.size(1) &&
      (!conv_bias.defined() || conv_bias.numel() == filter.size(0)) &&
      fits_winograd(x, filter, conv_bias, 1, 1)) {
    const GroupNormCall call = make_group_norm_call(x, num_groups, weight, bias, options);
    if (needs_gradients(x, call, convolution))
      return NormConv2dFunction::apply(x, call.weight, call.bias, optional_tensor(call.offset), filter,
                                       optional_tensor(conv_bias), call);
  }
  const at::Tensor normed = group_norm(x, num_groups, weight, bias, options);
  x.reset();
  return fast_conv2d(normed, filter, conv_bias, 1, 1);
}

}  // namespace internal
}  // namespace diffusers
