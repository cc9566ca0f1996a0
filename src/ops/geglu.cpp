#include <algorithm>
#include <cmath>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/ops/fused.h>
#include <diffusers/ops/geglu.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/parallel.h"
#include "core/require.h"
#include "ops/cpu/kernels.h"
#include "ops/cuda/pointwise_tensors.h"
#include "ops/reference.h"

namespace diffusers {
namespace {

/// Calls run(begin, end) for parts of the rows of x `[..., 2 features]`, in parallel.
template <class Run>
void for_each_geglu_row(const at::Tensor& x, int64_t features, const Run& run) {
  constexpr int64_t kWorthAThread = 16384;  // elements
  parallel_for(0, x.numel() / (2 * features), std::max<int64_t>(1, kWorthAThread / features), run);
}

at::Tensor fused_geglu(const at::Tensor& x) {
#if defined(DIFFUSERS_WITH_CUDA)
  if (x.is_cuda()) return cuda::run_geglu(x);
#endif
  const int64_t features = x.size(-1) / 2;
  auto shape = x.sizes().vec();
  shape.back() = features;
  at::Tensor y = at::empty(shape, x.options());
  const auto* from = x.const_data_ptr<float>();
  auto* to = y.mutable_data_ptr<float>();
  for_each_geglu_row(x, features,
                     [=](int64_t begin, int64_t end) { cpu::geglu_forward(features, from, to, begin, end); });
  return y;
}

at::Tensor fused_geglu_backward(const at::Tensor& grad_y, const at::Tensor& x) {
#if defined(DIFFUSERS_WITH_CUDA)
  if (x.is_cuda()) return cuda::run_geglu_backward(grad_y, x);
#endif
  const int64_t features = x.size(-1) / 2;
  const at::Tensor grad = grad_y.contiguous();
  at::Tensor grad_x = at::empty_like(x);
  const auto* grads = grad.const_data_ptr<float>();
  const auto* from = x.const_data_ptr<float>();
  auto* to = grad_x.mutable_data_ptr<float>();
  for_each_geglu_row(x, features, [=](int64_t begin, int64_t end) {
    cpu::geglu_backward(features, grads, from, to, begin, end);
  });
  return grad_x;
}

/// Computes the gradient with differentiable operations, for second derivatives.
at::Tensor composed_geglu_backward(const at::Tensor& grad_y, const at::Tensor& x) {
  const auto halves = x.chunk(2, -1);
  const at::Tensor& gate = halves[1];
  const at::Tensor phi = 0.5 * (1 + at::erf(gate * std::sqrt(0.5)));
  const at::Tensor density = at::exp(-0.5 * gate.square()) / std::sqrt(2 * M_PI);
  return at::cat({grad_y * gate * phi, grad_y * halves[0] * (phi + gate * density)}, -1);
}

class GegluFunction : public torch::autograd::Function<GegluFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    return fused_geglu(x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = context->get_saved_variables();
    return {at::GradMode::is_enabled() ? composed_geglu_backward(grad_outputs[0], saved[0])
                                       : fused_geglu_backward(grad_outputs[0], saved[0])};
  }
};

bool fits_fused_geglu(const at::Tensor& x) {
#if defined(DIFFUSERS_WITH_CUDA)
  if (x.is_cuda())
    return fused_cuda() && x.scalar_type() != at::kDouble && x.layout() == at::kStrided &&
           x.is_contiguous() && x.numel() > 0;
#endif
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.layout() == at::kStrided && x.is_contiguous() &&
         x.numel() > 0 && fused_cpu() && cpu::kernels_available();
}

}  // namespace

inline namespace internal {
namespace reference {

at::Tensor geglu(const at::Tensor& x) {
  const auto halves = x.chunk(2, -1);
  return halves[0] * at::gelu(halves[1]);
}

}  // namespace reference
}  // namespace internal

at::Tensor geglu(const at::Tensor& x) {
  require<TensorError>(x.defined() && at::isFloatingType(x.scalar_type()) && x.dim() > 0 && x.size(-1) > 0 &&
                           x.size(-1) % 2 == 0,
                       "geglu: x must be a floating tensor [..., 2 C], got {}", describe(x));
  if (!fits_fused_geglu(x)) return reference::geglu(x);
  return at::GradMode::is_enabled() && x.requires_grad() ? GegluFunction::apply(x) : fused_geglu(x);
}

}  // namespace diffusers
