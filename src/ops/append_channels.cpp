#include "ops/append_channels.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace diffusers {
namespace {

class AppendChannelsFunction : public torch::autograd::Function<AppendChannelsFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& residual) {
    context->saved_data["channels"] = x.size(1);
    return at::cat({x, residual}, 1);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const at::Tensor& grad = grad_outputs[0];
    const int64_t channels = context->saved_data["channels"].toInt();
    return {context->needs_input_grad(0) ? grad.narrow(1, 0, channels).contiguous() : at::Tensor(),
            context->needs_input_grad(1) ? grad.narrow(1, channels, grad.size(1) - channels) : at::Tensor()};
  }
};

}  // namespace

inline namespace internal {

at::Tensor append_channels(const at::Tensor& x, const at::Tensor& residual) {
  const bool tracked = at::GradMode::is_enabled() && (x.requires_grad() || residual.requires_grad());
  // `cat` promotes different dtypes, and its backward pass converts the gradients.
  const bool fits =
      tracked && x.is_cpu() && x.dim() >= 2 && x.scalar_type() == residual.scalar_type() && x.numel() > 0;
  return fits ? AppendChannelsFunction::apply(x, residual) : at::cat({x, residual}, 1);
}

}  // namespace internal
}  // namespace diffusers
