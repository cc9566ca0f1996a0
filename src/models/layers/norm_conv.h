#pragma once

#include <cstdint>

#include <diffusers/models/layers.h>
#include <diffusers/ops/group_norm.h>

namespace diffusers {
inline namespace internal {

/// Computes conv(silu(norm(input))). Without adapters the result of the norm is not kept for the backward
/// pass (`group_norm_conv2d`).
/// @param groups  of `norm`
/// @param options  of the norm; SiLU is added
/// @param conv  3x3 with stride 1 and padding 1
/// @param input  `[B, C, H, W]`; without gradients it is released before the convolution
Tensor norm_silu_conv(const layers::GroupNorm& norm, int64_t groups, GroupNormOptions options,
                      const layers::Conv2d& conv, Tensor input);

}  // namespace internal
}  // namespace diffusers
