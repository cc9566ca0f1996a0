#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace diffusers {

struct AttentionOptions {
  /// Broadcasts to `[B, heads, L, S]`. Boolean: true takes part; or of the query's dtype: added to the
  /// scores.
  at::Tensor mask = {};
  /// A query sees only the keys up to its own position. Not together with `mask`.
  bool is_causal = false;
  /// Factor of the scores; 1 / sqrt(D) by default.
  std::optional<double> scale = std::nullopt;
};

/// softmax(scale * query key^T + mask) value   (Vaswani et al. 2017, eq. 1)
///
/// The scores are never stored as a whole: LibTorch's `scaled_dot_product_attention` is used, except on the
/// CPU for float32 with small heads and short sequences without a mask, where its kernel is slow and one of
/// our own is chosen. Both agree within float32 rounding, and a run repeats bit for bit. Differentiable
/// (twice by recomputing with plain operations). A query whose keys are all masked gives what LibTorch gives.
///
/// @param query `[B, heads, L, D]`, floating
/// @param key `[B, heads, S, D]`, S at least 1
/// @param value `[B, heads, S, E]`
/// @return `[B, heads, L, E]`
/// @throws TensorError naming both sides if a shape, dtype or device does not fit
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const AttentionOptions& options = {});

}  // namespace diffusers
