// The library's side of src/ops/cuda: it calls the functions of libdiffusers_cuda.so.

#include "core/cuda_library.h"
#include "ops/cuda/exports.h"

namespace diffusers {
inline namespace internal {
namespace cuda {
namespace {

const Exports& loaded() {
  static const Exports& exports = *cuda_function<decltype(diffusers_cuda_ops)>("diffusers_cuda_ops")();
  return exports;
}

}  // namespace

NormalizedActivation fused_forward(const at::Tensor& x, const GroupNormCall& call) {
  return loaded().group_norm(x, call);
}

GroupNormGradients fused_backward(const at::Tensor& grad_y, const at::Tensor& x, const GroupNormCall& call,
                                  const at::Tensor& mean, const at::Tensor& rstd) {
  return loaded().group_norm_backward(grad_y, x, call, mean, rstd);
}

at::Tensor run_geglu(const at::Tensor& x) { return loaded().geglu(x); }

at::Tensor run_geglu_backward(const at::Tensor& grad_y, const at::Tensor& x) {
  return loaded().geglu_backward(grad_y, x);
}

at::Tensor run_timestep_embedding(const at::Tensor& timesteps, const TimestepEmbeddingShape& shape) {
  return loaded().timestep_embedding(timesteps, shape);
}

at::Tensor run_gradient_norm(const std::vector<at::Tensor>& grads, const at::Tensor& scale, double max_norm) {
  return loaded().gradient_norm(grads, scale, max_norm);
}

void run_adamw(const AdamWTensors& tensors, const AdamWOptions& options, const at::Tensor& learning_rate,
               const at::Tensor& outcome, const at::Tensor& skip) {
  loaded().adamw(tensors, options, learning_rate, outcome, skip);
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
