#include "ops/tokens.h"

#include <diffusers/ops/fused.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/cpu/kernels.h"
#include "ops/cpu/transpose.h"

namespace diffusers {
namespace {

bool fits_transpose(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided &&
         tensor.numel() > 0 && fused_cpu() && cpu::kernels_available();
}

at::Tensor transposed(const at::Tensor& matrices);

/// Returns addend + transposed matrices, `[B, C, R]` from `[B, R, C]`. The addend may be undefined.
at::Tensor compute_transposed(const at::Tensor& matrices, const at::Tensor& addend) {
  at::Tensor result = at::empty({matrices.size(0), matrices.size(2), matrices.size(1)}, matrices.options());
  cpu::transpose_into(matrices, addend, result);
  return result;
}

class TransposeFunction : public torch::autograd::Function<TransposeFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* /*context*/, const at::Tensor& matrices) {
    return compute_transposed(matrices, at::Tensor());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* /*context*/,
                                                 const torch::autograd::variable_list& grad_outputs) {
    return {transposed(grad_outputs[0])};
  }
};

class AddTransposedFunction : public torch::autograd::Function<AddTransposedFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* /*context*/, const at::Tensor& matrices,
                            const at::Tensor& addend) {
    return compute_transposed(matrices, addend);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    return {context->needs_input_grad(0) ? transposed(grad_outputs[0]) : at::Tensor(), grad_outputs[0]};
  }
};

at::Tensor add_transposed(const at::Tensor& matrices, const at::Tensor& addend) {
  const bool tracked = at::GradMode::is_enabled() && (matrices.requires_grad() || addend.requires_grad());
  return tracked ? AddTransposedFunction::apply(matrices, addend) : compute_transposed(matrices, addend);
}

at::Tensor transposed(const at::Tensor& matrices) {
  if (!fits_transpose(matrices)) return matrices.transpose(1, 2).contiguous();
  const bool tracked = at::GradMode::is_enabled() && matrices.requires_grad();
  return tracked ? TransposeFunction::apply(matrices.contiguous())
                 : compute_transposed(matrices.contiguous(), at::Tensor());
}

}  // namespace

inline namespace internal {

at::Tensor image_to_tokens(const at::Tensor& image) {
  const at::Tensor tokens = image.flatten(2).transpose(1, 2);
  return tokens.is_contiguous() ? tokens : transposed(image.flatten(2));
}

at::Tensor tokens_to_image(const at::Tensor& tokens, at::IntArrayRef sizes) {
  return transposed(tokens).view(sizes);
}

at::Tensor add_tokens(const at::Tensor& image, const at::Tensor& tokens) {
  if (!fits_transpose(image) || !fits_transpose(tokens))
    return image + tokens.transpose(1, 2).reshape(image.sizes());
  return add_transposed(tokens.contiguous(), image.contiguous().flatten(2)).view(image.sizes());
}

}  // namespace internal
}  // namespace diffusers
