#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The optional arguments of `attention`.
struct AttentionOptions {
  /// Broadcasts to `[B, heads, L, S]`. Boolean: true takes part. Of the query's dtype: added to the scores.
  at::Tensor mask = {};
  /// Each query attends only to keys up to its own position. Not together with `mask`.
  bool is_causal = false;
  /// Factor of the scores. nullopt: 1 / sqrt(D).
  std::optional<double> scale = std::nullopt;
};

/// Computes softmax(scale * query key^T + mask) value (Vaswani et al. 2017, eq. 1).
///
/// The scores are never stored as a whole. On the CPU, float32 with small heads and short sequences without a
/// mask takes a kernel of this library; everything else takes LibTorch's `scaled_dot_product_attention`. Both
/// agree to float32 rounding. The result is deterministic. Differentiable twice. A query whose keys are all
/// masked gives LibTorch's result.
///
/// @param query `[B, heads, L, D]`, floating
/// @param key `[B, heads, S, D]`, S at least 1
/// @param value `[B, heads, S, E]`
/// @param options mask and scale
/// @return `[B, heads, L, E]`
/// @throws TensorError naming both sides if a shape, dtype or device does not fit
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const AttentionOptions& options = {});

}  // namespace diffusers
