#pragma once

// Calls the fused kernels with tensors. x, weight, bias and offset must be contiguous and on the device of
// the backend. x must not be empty.

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

struct NormalizedActivation {
  at::Tensor y;
  at::Tensor mean;  // mean of each group, [B * num_groups]
  at::Tensor rstd;
};

struct GroupNormGradients {
  at::Tensor x;
  at::Tensor weight;
  at::Tensor bias;
  at::Tensor offset = {};
};

/// The arguments of a group norm apart from x.
struct GroupNormCall {
  int64_t num_groups = 1;
  double eps = 1e-5;
  bool silu = false;
  bool tokens = false;     // y is [B, L, C] instead of [B, C, ...]; not together with silu
  at::Tensor weight = {};  // [C] or [B, C]
  at::Tensor bias = {};    // shape of weight
  at::Tensor offset = {};  // [B, C] or undefined
};

namespace cpu {

/// All tensors are float32.
NormalizedActivation fused_forward(const at::Tensor& x, const GroupNormCall& call);
/// Computes y again from the statistics, with the same bits; not for tokens.
at::Tensor fused_apply(const at::Tensor& x, const GroupNormCall& call, const at::Tensor& mean,
                       const at::Tensor& rstd);
/// @param in_place  the gradient of x may have the memory of grad_y
GroupNormGradients fused_backward(const at::Tensor& grad_y, const at::Tensor& x, const GroupNormCall& call,
                                  const at::Tensor& mean, const at::Tensor& rstd, bool in_place = false);

}  // namespace cpu

namespace cuda {

/// x is contiguous or channels-last, of float32, float16 or bfloat16, with fewer than 2^31 elements in a
/// group of an image; weight and bias of any floating dtype; mean and rstd are float32. y has the dtype and
/// the layout of x. `tokens` and `offset` are not supported.
NormalizedActivation fused_forward(const at::Tensor& x, const GroupNormCall& call);
GroupNormGradients fused_backward(const at::Tensor& grad_y, const at::Tensor& x, const GroupNormCall& call,
                                  const at::Tensor& mean, const at::Tensor& rstd);

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
