#pragma once

// Calls the CUDA kernels of GEGLU and of the timestep embedding with tensors.

#include <ATen/core/Tensor.h>

#include "ops/cuda/pointwise_math.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

/// @param x `[..., 2 C]`, contiguous, not empty, on a CUDA device; float32, float16 or bfloat16
/// @return `[..., C]`
at::Tensor run_geglu(const at::Tensor& x);

/// @return gradient of x
at::Tensor run_geglu_backward(const at::Tensor& grad_y, const at::Tensor& x);

/// @param timesteps `[count]` of any dtype, on a CUDA device
/// @return float32 `[count, dim]`
at::Tensor run_timestep_embedding(const at::Tensor& timesteps, const TimestepEmbeddingShape& shape);

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
