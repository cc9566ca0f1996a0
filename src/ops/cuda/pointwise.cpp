#include "ops/cuda/pointwise.h"

#include <ATen/ATen.h>

#include "ops/cuda/pointwise_tensors.h"
#include "ops/cuda/tensor_arguments.h"

namespace diffusers {
inline namespace internal {
namespace cuda {
namespace {

GegluShape geglu_shape(const at::Tensor& x) {
  const int64_t features = x.size(-1) / 2;
  return {x.numel() / (2 * features), features};
}

}  // namespace

at::Tensor run_geglu(const at::Tensor& x) {
  const c10::cuda::CUDAGuard guard(x.device());
  auto sizes = x.sizes().vec();
  sizes.back() /= 2;
  at::Tensor y = at::empty(sizes, x.options());
  const GegluShape shape = geglu_shape(x);
  const int vector =
      geglu_vector(element_of(x), shape, common_alignment({x.const_data_ptr(), y.const_data_ptr()}));
  check_launch(geglu_forward(element_of(x), shape, vector, x.const_data_ptr(), y.mutable_data_ptr(),
                             c10::cuda::getCurrentCUDAStream()),
               "geglu");
  return y;
}

at::Tensor run_geglu_backward(const at::Tensor& grad_y, const at::Tensor& x) {
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor grad = grad_y.contiguous();
  at::Tensor grad_x = at::empty_like(x);
  const GegluShape shape = geglu_shape(x);
  const int vector =
      geglu_vector(element_of(x), shape,
                   common_alignment({x.const_data_ptr(), grad.const_data_ptr(), grad_x.const_data_ptr()}));
  check_launch(geglu_backward(element_of(x), shape, vector, grad.const_data_ptr(), x.const_data_ptr(),
                              grad_x.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()),
               "geglu");
  return grad_x;
}

at::Tensor run_timestep_embedding(const at::Tensor& timesteps, const TimestepEmbeddingShape& shape) {
  const c10::cuda::CUDAGuard guard(timesteps.device());
  const at::Tensor times = timesteps.to(at::kFloat).contiguous();
  at::Tensor y = at::empty({shape.count, shape.dim}, times.options());
  check_launch(timestep_embedding(shape, times.const_data_ptr<float>(), y.mutable_data_ptr<float>(),
                                  c10::cuda::getCurrentCUDAStream()),
               "get_timestep_embedding");
  return y;
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
