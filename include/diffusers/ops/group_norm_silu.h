#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Computes `silu(group_norm(x))`, the two operations before each convolution of a residual block (Wu and He
/// 2018; diffusers `ResnetBlock2D`). It is `group_norm` with the option `silu`.
///
/// @param x `[B, C, ...]` with at least one dimension after C, floating; B may be 0
/// @param num_groups number of groups, a divisor of C
/// @param weight `[C]` on the device of `x`. Its dtype is that of `x`, or float32 if `x` is float16 or
///   bfloat16. Under autocast any floating dtype is accepted.
/// @param bias shape, device and dtype of `weight`
/// @param eps added to the variance; finite and not negative
/// @return shape and dtype of `x`; under autocast float32, like LibTorch's group norm
/// @throws TensorError naming the expected and the actual value if a shape, dtype or device does not fit
at::Tensor group_norm_silu(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                           const at::Tensor& bias, double eps = 1e-5);

}  // namespace diffusers
