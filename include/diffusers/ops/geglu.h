#pragma once

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Computes `hidden * gelu(gate)`, the activation of a gated feed-forward layer (Shazeer 2020, eq. 6;
/// diffusers `GEGLU`). gelu is the exact one, x Phi(x), with the distribution function Phi of the normal
/// distribution.
///
/// On the CPU, contiguous float32 tensors use a fused kernel in the forward and the backward pass, which
/// keeps only `x` for the backward pass. All other tensors use LibTorch operations. Both agree to float32
/// rounding. The result is deterministic, does not depend on the number of threads, and is twice
/// differentiable.
///
/// @param x `[..., 2 C]`, floating: hidden, then gate
/// @return `[..., C]`, dtype of `x`
/// @throws TensorError naming the expected and the actual value if a shape or dtype does not fit
at::Tensor geglu(const at::Tensor& x);

}  // namespace diffusers
