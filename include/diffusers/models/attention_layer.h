#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_names.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/spatial_norm.h>

namespace diffusers {

/// Norm of the encoder's hidden states before `Attention` projects them to keys and values.
enum class CrossAttentionNorm {
  kNone,       ///< no norm
  kLayerNorm,  ///< layer norm
  kGroupNorm   ///< group norm
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<CrossAttentionNorm> {
  static constexpr std::string_view kKey = "cross_attention_norm";
  static constexpr std::array<std::pair<CrossAttentionNorm, std::string_view>, 2> kTable{
      {{CrossAttentionNorm::kLayerNorm, "layer_norm"}, {CrossAttentionNorm::kGroupNorm, "group_norm"}}};
};

/// The arguments of Python's `Attention(...)`.
struct AttentionLayerOptions {
  int64_t query_dim = 0;  ///< channels of hidden_states
  /// Width of encoder_hidden_states; default: query_dim.
  std::optional<int64_t> cross_attention_dim = std::nullopt;
  int64_t heads = 8;      ///< number of heads
  int64_t dim_head = 64;  ///< channels of a head
  double dropout = 0.0;   ///< dropout probability after the output projection
  bool bias = false;      ///< bias of the projections of queries, keys and values
  CrossAttentionNorm cross_attention_norm = CrossAttentionNorm::kNone;  ///< norm of encoder_hidden_states
  int64_t cross_attention_norm_num_groups = 32;                         ///< groups of `kGroupNorm`
  /// Width of encoder_hidden_states that have projections of their own (`AttnAddedKVProcessor`). Their keys
  /// and values are concatenated before those of hidden_states. cross_attention_dim then equals query_dim.
  /// nullopt: no such projections.
  std::optional<int64_t> added_kv_proj_dim = std::nullopt;
  /// Groups of a group norm of the input; nullopt: none.
  std::optional<int64_t> norm_num_groups = std::nullopt;
  /// Channels of the latents of a spatial norm of the input; nullopt: none.
  std::optional<int64_t> spatial_norm_dim = std::nullopt;
  bool out_bias = true;                ///< bias of the output projection
  bool only_cross_attention = false;   ///< with added_kv_proj_dim: no keys and values of hidden_states
  double eps = 1e-5;                   ///< epsilon of the group norm of the input
  double rescale_output_factor = 1.0;  ///< divisor of the output
  bool residual_connection = false;    ///< adds the input to the output
  /// Files of diffusers before 0.15 name the projections query, key, value and proj_attn. true reads such
  /// files.
  bool from_deprecated_attn_block = false;
};

/// Multi-head attention with its projections (diffusers `Attention` with `AttnProcessor2_0` or
/// `AttnAddedKVProcessor2_0`).
class AttentionImpl : public torch::nn::Module {
 public:
  /// Makes the projections and the norms.
  /// @param options the arguments of the layer
  /// @throws ConfigError if channels, groups or heads do not fit
  explicit AttentionImpl(const AttentionLayerOptions& options);
  /// Computes attention of hidden_states to encoder_hidden_states, or to themselves.
  /// @param hidden_states `[B, query_dim, H, W]` or `[B, L, query_dim]`
  /// @param encoder_hidden_states `[B, S, cross_attention_dim]`, or `[B, S, added_kv_proj_dim]`; undefined
  ///   for self-attention
  /// @param attention_mask broadcasts to `[B, heads, L, S]`. Boolean: false excludes a key. Floating: added
  ///   to the scores. With added_kv_proj_dim it is floating and covers the encoder's tokens only.
  /// @param temb `[B, spatial_norm_dim, h, w]`, for a layer with spatial_norm_dim
  /// @return shape of hidden_states
  /// @throws TensorError naming both sides if a shape does not fit
  Tensor forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states = {},
                 const Tensor& attention_mask = {}, const Tensor& temb = {}) const;
  /// @return the option from_deprecated_attn_block
  bool from_deprecated_attn_block() const { return options_.from_deprecated_attn_block; }

 private:
  Tensor normalize_encoder(const Tensor& encoder_hidden_states) const;
  Tensor split_heads(const Tensor& projected) const;
  void check_encoder(const Tensor& encoder_hidden_states, const Tensor& hidden_states) const;
  // The result of `forward` before its output projection.
  Tensor attend(const Tensor& tokens, const Tensor& context, const Tensor& attention_mask) const;
  Tensor attend_with_added(const Tensor& tokens, const Tensor& context, const Tensor& attention_mask) const;

  AttentionLayerOptions options_;
  layers::GroupNorm group_norm_{nullptr};
  SpatialNorm spatial_norm_{nullptr};
  layers::LayerNorm layer_norm_cross_{nullptr};
  layers::GroupNorm group_norm_cross_{nullptr};
  layers::Linear to_q_{nullptr};
  layers::Linear to_k_{nullptr};
  layers::Linear to_v_{nullptr};
  layers::Linear add_k_proj_{nullptr};
  layers::Linear add_v_proj_{nullptr};
  layers::Linear to_out_{nullptr};
};
/// A handle of an `AttentionImpl`.
TORCH_MODULE(Attention);

}  // namespace diffusers
