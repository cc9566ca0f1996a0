#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The optional arguments of `attention`.
struct AttentionOptions {
  /// Attention mask that broadcasts to `[B, heads, L, S]`. A boolean mask is true for the keys that take
  /// part. A mask of the query's dtype is added to the scores.
  at::Tensor mask = {};
  /// Each query attends only to keys up to its own position. Not together with `mask`.
  bool is_causal = false;
  /// Factor of the scores. nullopt means 1 / sqrt(D).
  std::optional<double> scale = std::nullopt;
};

/// Computes softmax(scale * query key^T + mask) value (Vaswani et al. 2017, eq. 1).
///
/// On the CPU, float32 tensors with small heads, short sequences and no mask use a kernel of this library.
/// All other inputs use LibTorch's `scaled_dot_product_attention`. Both agree to float32 rounding. Neither
/// stores the complete score matrix. The result is deterministic and twice differentiable. A query whose keys
/// are all masked gives LibTorch's result.
///
/// @param query `[B, heads, L, D]`, floating
/// @param key `[B, heads, S, D]`, S at least 1
/// @param value `[B, heads, S, E]`
/// @param options mask and scale
/// @return `[B, heads, L, E]`
/// @throws TensorError naming the expected and the actual value if a shape, dtype or device does not fit
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const AttentionOptions& options = {});

}  // namespace diffusers
