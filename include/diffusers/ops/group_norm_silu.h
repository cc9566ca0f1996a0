#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// `silu(group_norm(x))`, the pair in front of each convolution of a residual block (diffusers
/// `ResnetBlock2D`).
///
/// On the CPU, contiguous float32 tensors take a fused kernel, forward and backward: one read of `x` from
/// memory each way, and only `x` with its statistics kept for the backward. Everything else (other dtypes,
/// channels_last, CUDA unless `set_fused_cuda(true)`) is composed of LibTorch operations. Both agree within
/// float32 rounding, and a run repeats bit for bit with the same number of threads or another. Differentiable
/// twice.
///
/// @param x `[B, C, *]` with at least one dimension after C, floating; B may be 0
/// @param num_groups divides C
/// @param weight, bias `[C]`, both of one floating dtype: that of `x`, or float32 with a half or bfloat16 `x`
/// (any
///   floating one under autocast); on the device of `x`
/// @param eps added to the variance, finite and not negative
/// @return shape of `x`; its dtype too, except under autocast, where LibTorch's group norm gives float32
/// @throws TensorError naming both sides if a shape, dtype or device does not fit
at::Tensor group_norm_silu(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                           const at::Tensor& bias, double eps = 1e-5);

}  // namespace diffusers
