#pragma once

// Calls the fused kernels with tensors. x, weight and bias must be contiguous and on the device of the
// backend. x must not be empty.

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

struct NormalizedActivation {
  at::Tensor y;
  at::Tensor mean;  // mean of each group, [B * num_groups]
  at::Tensor rstd;
};

struct GroupNormSiluGradients {
  at::Tensor x;
  at::Tensor weight;
  at::Tensor bias;
};

namespace cpu {

/// All tensors are float32.
NormalizedActivation fused_forward(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                                   const at::Tensor& bias, double eps);
GroupNormSiluGradients fused_backward(const at::Tensor& grad_y, const at::Tensor& x, int64_t num_groups,
                                      const at::Tensor& weight, const at::Tensor& bias,
                                      const at::Tensor& mean, const at::Tensor& rstd);

}  // namespace cpu

namespace cuda {

/// x float32, float16 or bfloat16; weight and bias of any floating dtype; mean and rstd are float32.
NormalizedActivation fused_forward(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                                   const at::Tensor& bias, double eps);
GroupNormSiluGradients fused_backward(const at::Tensor& grad_y, const at::Tensor& x, int64_t num_groups,
                                      const at::Tensor& weight, const at::Tensor& bias,
                                      const at::Tensor& mean, const at::Tensor& rstd);

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
