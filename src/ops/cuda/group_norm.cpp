#include "ops/cuda/group_norm.h"

#include <ATen/ATen.h>

#include "ops/cuda/tensor_arguments.h"
#include "ops/group_norm_backends.h"

namespace diffusers {
inline namespace internal {
namespace cuda {
namespace {

Layout layout_of(const at::Tensor& x) { return x.is_contiguous() ? Layout::kPlanar : Layout::kChannelsLast; }

GroupNormShape cuda_norm_shape(const at::Tensor& x, int64_t num_groups) {
  return {x.size(0), num_groups, x.size(1) / num_groups, x.numel() / (x.size(0) * x.size(1))};
}

/// The tensors that a call of the kernel points to.
struct Arguments {
  at::Tensor weight;
  at::Tensor bias;
  at::Tensor scratch;
  GroupNormKernel kernel;

  Arguments(const at::Tensor& x, const GroupNormCall& call, const at::Tensor& mean, const at::Tensor& rstd,
            int64_t alignment)
      : weight(call.weight.to(at::kFloat)), bias(call.bias.to(at::kFloat)) {
    kernel.element = element_of(x);
    kernel.layout = layout_of(x);
    kernel.shape = cuda_norm_shape(x, call.num_groups);
    kernel.vector = group_norm_vector(kernel.element, kernel.layout, kernel.shape, alignment);
    kernel.silu = call.silu;
    kernel.is_per_image = weight.dim() == 2;
    kernel.eps = static_cast<float>(call.eps);
    kernel.x = x.const_data_ptr();
    kernel.weight = weight.const_data_ptr<float>();
    kernel.bias = bias.const_data_ptr<float>();
    kernel.mean = mean.mutable_data_ptr<float>();
    kernel.rstd = rstd.mutable_data_ptr<float>();
    scratch = at::empty({group_norm_scratch(kernel.layout, kernel.shape, kernel.vector)}, mean.options());
    kernel.scratch = scratch.mutable_data_ptr<float>();
    kernel.stream = c10::cuda::getCurrentCUDAStream();
  }
};

}  // namespace

NormalizedActivation fused_forward(const at::Tensor& x, const GroupNormCall& call) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto statistics = x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  const int64_t items = x.size(0) * call.num_groups;
  NormalizedActivation result{at::empty_like(x), at::empty({items}, statistics),
                              at::empty({items}, statistics)};
  const Arguments arguments(x, call, result.mean, result.rstd,
                            common_alignment({x.const_data_ptr(), result.y.const_data_ptr()}));
  check_launch(group_norm_forward(arguments.kernel, result.y.mutable_data_ptr()), "group_norm");
  return result;
}

GroupNormGradients fused_backward(const at::Tensor& grad_y, const at::Tensor& x, const GroupNormCall& call,
                                  const at::Tensor& mean, const at::Tensor& rstd) {
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor grad = grad_y.to(x.scalar_type())
                              .contiguous(layout_of(x) == Layout::kPlanar ? at::MemoryFormat::Contiguous
                                                                          : at::MemoryFormat::ChannelsLast);
  at::Tensor grad_x = at::empty_like(x);
  const Arguments arguments(
      x, call, mean, rstd,
      common_alignment({x.const_data_ptr(), grad.const_data_ptr(), grad_x.const_data_ptr()}));
  const at::Tensor grad_weight = at::empty_like(arguments.weight);
  const at::Tensor grad_bias = at::empty_like(arguments.bias);
  check_launch(
      group_norm_backward(arguments.kernel, grad.const_data_ptr(), grad_x.mutable_data_ptr(),
                          grad_weight.mutable_data_ptr<float>(), grad_bias.mutable_data_ptr<float>()),
      "group_norm");
  return {grad_x, grad_weight.to(call.weight.scalar_type()), grad_bias.to(call.bias.scalar_type())};
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
