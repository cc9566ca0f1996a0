#pragma once

#include <cstdint>

#include <diffusers/ops/group_norm.h>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

/// Weight and bias of a convolution; the bias may be undefined.
struct Conv2dParameters {
  at::Tensor weight, bias;
};

/// Computes `fast_conv2d(group_norm(x, ...), weight, bias, 1, 1)` with the same bits. For float32 on the CPU
/// the result of the norm is not kept for the backward pass, which computes it again from x and the
/// statistics: it is as large as x, and its computation takes a small part of the time of the convolution.
/// @param x `[B, C, H, W]`; without gradients it is released before the convolution
/// @param weight,bias of the norm, as in `group_norm`
/// @param convolution weight `[K, C, 3, 3]` and bias `[K]`
at::Tensor group_norm_conv2d(at::Tensor x, int64_t num_groups, const at::Tensor& weight,
                             const at::Tensor& bias, const GroupNormOptions& options,
                             const Conv2dParameters& convolution);

}  // namespace internal
}  // namespace diffusers
