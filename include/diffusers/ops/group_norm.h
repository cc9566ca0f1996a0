#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The optional arguments of `group_norm`.
struct GroupNormOptions {
  /// Added to the variance; finite and not negative.
  double eps = 1e-5;
  /// Added to `x` before the norm, `[B, C]` or `[1, C]`, floating: the time embedding of a residual block.
  at::Tensor offset = {};
  /// The result of the norm is multiplied by 1 + `scale`, `[B, C]` or `[1, C]`, floating. Together with
  /// `shift`.
  at::Tensor scale = {};
  /// Added to the scaled result, shape of `scale`, floating.
  at::Tensor shift = {};
  /// Applies SiLU at the end.
  bool silu = false;
};

/// Computes `silu(norm(x + offset) * (1 + scale) + shift)`, where norm is a group norm with weight and bias
/// (Wu and He 2018). offset, scale, shift and SiLU are optional (diffusers `ResnetBlock2D`).
///
/// On the CPU, float32 tensors use a fused kernel in the forward and the backward pass. It keeps only `x`,
/// the values of the channels and the statistics for the backward pass. A tensor that is not contiguous
/// (channels_last) is copied once. CUDA tensors use a kernel after `set_fused_cuda(true)`, if SiLU is the
/// only option. All other tensors use LibTorch operations. The results agree to float32 rounding. The result
/// is deterministic, does not depend on the number of threads, and is twice differentiable.
///
/// @param x `[B, C, ...]` with at least one dimension after C, floating; B may be 0
/// @param num_groups number of groups, a divisor of C
/// @param weight `[C]` on the device of `x`, or undefined for ones. Its dtype is that of `x`, or float32 if
/// `x`
///   is float16 or bfloat16. Under autocast any floating dtype is accepted.
/// @param bias shape, device and dtype of `weight`, or undefined for zeros
/// @param options the other arguments
/// @return shape and dtype of `x`, contiguous if a kernel was used; under autocast float32, like LibTorch's
///   group norm
/// @throws TensorError naming the expected and the actual value if a shape, dtype or device does not fit
at::Tensor group_norm(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                      const at::Tensor& bias, const GroupNormOptions& options = {});

}  // namespace diffusers
