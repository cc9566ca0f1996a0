#include <cmath>
#include <memory>

#include <diffusers/models/attention_layer.h>
#include <diffusers/ops/attention.h>

#include <torch/types.h>

#include "core/format.h"

namespace diffusers {

AttentionImpl::AttentionImpl(const AttentionLayerOptions& options) : options_(options) {
  const int64_t cross_dim = options.cross_attention_dim.value_or(options.query_dim);
  require<ConfigError>(options.query_dim > 0 && cross_dim > 0,
                       "attention of {} channels to {}: both must be positive", options.query_dim, cross_dim);
  require<ConfigError>(options.heads > 0 && options.dim_head > 0,
                       "attention over {} channels with {} heads of {} channels: both must be positive",
                       options.query_dim, options.heads, options.dim_head);
  require<ConfigError>(std::isfinite(options.rescale_output_factor) && options.rescale_output_factor != 0,
                       "rescale_output_factor is {}, expected a finite number other than 0",
                       options.rescale_output_factor);
  const int64_t inner_dim = options.heads * options.dim_head;

  if (options.norm_num_groups) {
    group_norm_ = register_module(
        "group_norm", layers::GroupNorm(*options.norm_num_groups, options.query_dim, options.eps));
  }
  if (options.spatial_norm_dim) {
    spatial_norm_ =
        register_module("spatial_norm", SpatialNorm(options.query_dim, *options.spatial_norm_dim));
  }
  if (options.cross_attention_norm == CrossAttentionNorm::kLayerNorm) {
    layer_norm_cross_ = register_module("norm_cross", layers::LayerNorm(cross_dim));
  } else if (options.cross_attention_norm == CrossAttentionNorm::kGroupNorm) {
    group_norm_cross_ =
        register_module("norm_cross", layers::GroupNorm(options.cross_attention_norm_num_groups, cross_dim));
  }
  to_q_ = register_module("to_q", layers::Linear(options.query_dim, inner_dim, options.bias));
  to_k_ = register_module("to_k", layers::Linear(cross_dim, inner_dim, options.bias));
  to_v_ = register_module("to_v", layers::Linear(cross_dim, inner_dim, options.bias));
  // Python keeps the projection and a dropout in a list; the dropout has no parameters.
  auto to_out = std::make_shared<layers::ModuleVectorImpl<layers::Linear>>();
  register_module("to_out", to_out);
  to_out_ = layers::Linear(inner_dim, options.query_dim, options.out_bias);
  to_out->push_back(to_out_);
}

Tensor AttentionImpl::normalize_encoder(const Tensor& encoder_hidden_states) const {
  if (layer_norm_cross_) return layer_norm_cross_->forward(encoder_hidden_states);
  if (group_norm_cross_)
    return group_norm_cross_->forward(encoder_hidden_states.transpose(1, 2)).transpose(1, 2);
  return encoder_hidden_states;
}

Tensor AttentionImpl::forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states,
                              const Tensor& attention_mask, const Tensor& temb) const {
  require<TensorError>(hidden_states.defined() && (hidden_states.dim() == 4 || hidden_states.dim() == 3),
                       "attention: expected [B, C, H, W] or [B, L, C], got {}", describe(hidden_states));
  const bool image = hidden_states.dim() == 4;
  const auto batch = hidden_states.size(0);
  // As [B, C, L] for the norm, as [B, L, C] for the projections.
  const auto normed = spatial_norm_ ? spatial_norm_->forward(hidden_states, temb) : hidden_states;
  auto channels_first = image ? normed.flatten(2) : normed.transpose(1, 2);
  if (group_norm_) channels_first = group_norm_->forward(channels_first);
  const auto tokens = channels_first.transpose(1, 2);
  const auto context = encoder_hidden_states.defined() ? normalize_encoder(encoder_hidden_states) : tokens;

  const auto split_heads = [&](const Tensor& projected) {
    return projected.view({batch, projected.size(1), options_.heads, options_.dim_head}).transpose(1, 2);
  };
  const auto query = split_heads(to_q_->forward(tokens));
  const auto key = split_heads(to_k_->forward(context));
  const auto value = split_heads(to_v_->forward(context));
  auto hidden = attention(query, key, value, {.mask = attention_mask});
  hidden = hidden.transpose(1, 2).reshape({batch, -1, options_.heads * options_.dim_head});
  hidden = layers::dropout(to_out_->forward(hidden), options_.dropout, is_training());

  if (image) hidden = hidden.transpose(1, 2).reshape(hidden_states.sizes());
  if (options_.residual_connection) hidden = hidden + hidden_states;
  return options_.rescale_output_factor == 1 ? hidden : hidden / options_.rescale_output_factor;
}

}  // namespace diffusers
