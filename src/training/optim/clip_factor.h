#pragma once

#include <diffusers/core/tensor.h>

#include <ATen/ATen.h>

namespace diffusers {
inline namespace internal {

/// Returns the factor that reduces gradients to a norm of at most `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_` computes it.
/// @param total_norm 0-dim, floating
inline Tensor clip_factor(const Tensor& total_norm, double max_norm) {
  return (max_norm / (total_norm + 1e-6)).clamp_max(1.0);
}

}  // namespace internal
}  // namespace diffusers
