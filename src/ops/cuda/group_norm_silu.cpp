#include "ops/cuda/group_norm_silu.h"

#include <diffusers/core/error.h>

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/require.h"
#include "ops/group_norm_backends.h"

namespace diffusers {
inline namespace internal {
namespace cuda {
namespace {

Element element_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kHalf:
      return Element::kHalf;
    case at::kBFloat16:
      return Element::kBFloat16;
    default:
      return Element::kFloat;
  }
}

GroupNormShape cuda_shape(const at::Tensor& x, int64_t num_groups) {
  return {x.size(0), num_groups, x.size(1) / num_groups, x.numel() / (x.size(0) * x.size(1))};
}

void check_launch(cudaError_t error) {
  require(error == cudaSuccess, "group_norm_silu: the CUDA kernel could not be started: {}",
          cudaGetErrorString(error));
}

}  // namespace

NormalizedActivation fused_forward(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                                   const at::Tensor& bias, double eps) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto statistics = x.options().dtype(at::kFloat);
  const int64_t items = x.size(0) * num_groups;
  NormalizedActivation result{at::empty_like(x), at::empty({items}, statistics),
                              at::empty({items}, statistics)};
  const at::Tensor weights = weight.to(at::kFloat);
  const at::Tensor biases = bias.to(at::kFloat);
  check_launch(group_norm_silu_forward(
      element_of(x), cuda_shape(x, num_groups), static_cast<float>(eps), x.const_data_ptr(),
      weights.const_data_ptr<float>(), biases.const_data_ptr<float>(), result.y.mutable_data_ptr(),
      result.mean.mutable_data_ptr<float>(), result.rstd.mutable_data_ptr<float>(),
      c10::cuda::getCurrentCUDAStream()));
  return result;
}

GroupNormGradients fused_backward(const at::Tensor& grad_y, const at::Tensor& x, int64_t num_groups,
                                  const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& mean,
                                  const at::Tensor& rstd) {
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor grad = grad_y.contiguous();
  const at::Tensor weights = weight.to(at::kFloat);
  const at::Tensor biases = bias.to(at::kFloat);
  const at::Tensor grad_weight = at::empty({x.size(0), x.size(1)}, mean.options());
  const at::Tensor grad_bias = at::empty_like(grad_weight);
  at::Tensor grad_x = at::empty_like(x);
  check_launch(group_norm_silu_backward(
      element_of(x), cuda_shape(x, num_groups), grad.const_data_ptr(), x.const_data_ptr(),
      weights.const_data_ptr<float>(), biases.const_data_ptr<float>(), mean.const_data_ptr<float>(),
      rstd.const_data_ptr<float>(), grad_x.mutable_data_ptr(), grad_weight.mutable_data_ptr<float>(),
      grad_bias.mutable_data_ptr<float>(), c10::cuda::getCurrentCUDAStream()));
  return {grad_x, grad_weight.sum(0).to(weight.scalar_type()), grad_bias.sum(0).to(bias.scalar_type())};
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
