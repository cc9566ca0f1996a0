#pragma once

// The steps of `group_norm` that other operations share with it.

#include <cstdint>

#include <diffusers/ops/group_norm.h>

#include <ATen/core/Tensor.h>

#include "ops/group_norm_backends.h"

namespace diffusers {
inline namespace internal {

/// Throws TensorError if a shape, dtype or device does not fit.
void check_group_norm(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                      const at::Tensor& bias, const GroupNormOptions& options);

/// Returns true if the CPU kernel can compute the norm.
bool fits_fused_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// Combines scale and shift with weight and bias.
GroupNormCall make_group_norm_call(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                                   const at::Tensor& bias, const GroupNormOptions& options);

/// Computes the norm with differentiable operations.
at::Tensor composed_norm(const at::Tensor& x, const GroupNormCall& call);

/// Computes the gradients with differentiable operations, for second derivatives.
GroupNormGradients composed_norm_gradients(const at::Tensor& grad_y, const at::Tensor& x,
                                           const GroupNormCall& call);

}  // namespace internal
}  // namespace diffusers
