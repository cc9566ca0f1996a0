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

/// How `Attention` treats the encoder's hidden states before it makes keys and values of them.
enum class CrossAttentionNorm { kNone, kLayerNorm, kGroupNorm };
template <>
struct EnumNames<CrossAttentionNorm> {
  static constexpr std::string_view kKey = "cross_attention_norm";
  static constexpr std::array<std::pair<CrossAttentionNorm, std::string_view>, 2> kTable{
      {{CrossAttentionNorm::kLayerNorm, "layer_norm"}, {CrossAttentionNorm::kGroupNorm, "group_norm"}}};
};

struct AttentionLayerOptions {
  int64_t query_dim = 0;
  std::optional<int64_t> cross_attention_dim =
      std::nullopt;  ///< width of encoder_hidden_states, query_dim by default
  int64_t heads = 8;
  int64_t dim_head = 64;
  double dropout = 0.0;
  bool bias = false;  ///< of queries, keys and values
  CrossAttentionNorm cross_attention_norm = CrossAttentionNorm::kNone;
  int64_t cross_attention_norm_num_groups = 32;
  /// The width of encoder_hidden_states with projections of their own, whose keys and values stand in front
  /// of those of the image (`AttnAddedKVProcessor`); cross_attention_dim is then a width of the image.
  std::optional<int64_t> added_kv_proj_dim = std::nullopt;
  std::optional<int64_t> norm_num_groups = std::nullopt;  ///< a group norm in front
  std::optional<int64_t> spatial_norm_dim =
      std::nullopt;  ///< a spatial norm in front, which takes latents of so many channels
  bool out_bias = true;
  bool only_cross_attention = false;  ///< with added_kv_proj_dim: no keys and values of the image
  double eps = 1e-5;
  double rescale_output_factor = 1.0;
  bool residual_connection = false;
  /// Files may call the projections query, key, value and proj_attn (diffusers before 0.15).
  bool from_deprecated_attn_block = false;
};

/// Multi-head attention with its projections (diffusers `Attention` with `AttnProcessor2_0` or
/// `AttnAddedKVProcessor2_0`).
class AttentionImpl : public torch::nn::Module {
 public:
  explicit AttentionImpl(const AttentionLayerOptions& options);
  /// @param hidden_states `[B, query_dim, H, W]` or `[B, L, query_dim]`
  /// @param encoder_hidden_states `[B, S, cross_attention_dim]`, or `[B, S, added_kv_proj_dim]`; undefined:
  /// attention of hidden_states to themselves
  /// @param attention_mask broadcasts to `[B, heads, L, S]`: boolean, true takes part; or added to the
  /// scores. With added_kv_proj_dim it is floating, and for the encoder's tokens only.
  /// @param temb `[B, spatial_norm_dim, h, w]`, for a layer made with spatial_norm_dim
  /// @return shape of hidden_states
  Tensor forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states = {},
                 const Tensor& attention_mask = {}, const Tensor& temb = {}) const;
  bool from_deprecated_attn_block() const { return options_.from_deprecated_attn_block; }

 private:
  Tensor normalize_encoder(const Tensor& encoder_hidden_states) const;
  Tensor split_heads(const Tensor& projected) const;
  void check_encoder(const Tensor& encoder_hidden_states, const Tensor& hidden_states) const;
  /// What `forward` gives, before its output projection.
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
TORCH_MODULE(Attention);

}  // namespace diffusers
