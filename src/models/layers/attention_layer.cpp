#include <cmath>
#include <memory>

#include <diffusers/models/attention_layer.h>
#include <diffusers/ops/attention.h>

#include <torch/types.h>

#include "core/require.h"
#include "ops/tokens.h"

namespace diffusers {
namespace {

constexpr double kCrossAttentionNormEps = 1e-5;

}  // namespace

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
  require<ConfigError>(!options.only_cross_attention || options.added_kv_proj_dim,
                       "only_cross_attention of an attention layer needs added_kv_proj_dim");
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
    require<ConfigError>(
        !options.added_kv_proj_dim || *options.added_kv_proj_dim == cross_dim,
        "cross_attention_norm \"layer_norm\" is over the {} channels of the image, which must "
        "be those of the encoder's hidden states, {}",
        cross_dim, options.added_kv_proj_dim.value_or(0));
    layer_norm_cross_ = register_module("norm_cross", layers::LayerNorm(cross_dim));
  } else if (options.cross_attention_norm == CrossAttentionNorm::kGroupNorm) {
    group_norm_cross_ =
        register_module("norm_cross", layers::GroupNorm(options.cross_attention_norm_num_groups,
                                                        options.added_kv_proj_dim.value_or(cross_dim),
                                                        kCrossAttentionNormEps));
  }
  to_q_ = register_module("to_q", layers::Linear(options.query_dim, inner_dim, options.bias));
  if (!options.only_cross_attention) {
    to_k_ = register_module("to_k", layers::Linear(cross_dim, inner_dim, options.bias));
    to_v_ = register_module("to_v", layers::Linear(cross_dim, inner_dim, options.bias));
  }
  if (options.added_kv_proj_dim) {
    add_k_proj_ = register_module("add_k_proj", layers::Linear(*options.added_kv_proj_dim, inner_dim));
    add_v_proj_ = register_module("add_v_proj", layers::Linear(*options.added_kv_proj_dim, inner_dim));
  }
  // Python has the projection and a dropout in a list. The dropout has no parameters.
  auto to_out = std::make_shared<layers::ModuleVectorImpl<layers::Linear>>();
  register_module("to_out", to_out);
  to_out_ = layers::Linear(inner_dim, options.query_dim, options.out_bias);
  to_out->push_back(to_out_);
}

Tensor AttentionImpl::normalize_encoder(const Tensor& encoder_hidden_states) const {
  if (layer_norm_cross_) return layer_norm_cross_->forward(encoder_hidden_states);
  if (group_norm_cross_)
    return group_norm_tokens(encoder_hidden_states.transpose(1, 2), options_.cross_attention_norm_num_groups,
                             group_norm_cross_->weight, group_norm_cross_->bias, kCrossAttentionNormEps);
  return encoder_hidden_states;
}

Tensor AttentionImpl::split_heads(const Tensor& projected) const {
  return projected.view({projected.size(0), projected.size(1), options_.heads, options_.dim_head})
      .transpose(1, 2);
}

void AttentionImpl::check_encoder(const Tensor& encoder_hidden_states, const Tensor& hidden_states) const {
  const auto width = (add_k_proj_ ? add_k_proj_ : to_k_)->weight.size(1);
  const auto batch = hidden_states.size(0);
  if (encoder_hidden_states.defined()) {
    require<TensorError>(encoder_hidden_states.dim() == 3 && encoder_hidden_states.size(0) == batch &&
                             encoder_hidden_states.size(2) == width,
                         "attention: expected encoder_hidden_states [{}, S, {}], got {}", batch, width,
                         describe(encoder_hidden_states));
  } else {
    require<TensorError>(
        hidden_states.size(hidden_states.dim() == 4 ? 1 : 2) == width,
        "attention: expected encoder_hidden_states [{}, S, {}], got none and hidden states {}", batch, width,
        describe(hidden_states));
  }
}

Tensor AttentionImpl::attend(const Tensor& tokens, const Tensor& context,
                             const Tensor& attention_mask) const {
  const auto source = context.defined() ? normalize_encoder(context) : tokens;
  const auto query = split_heads(to_q_->forward(tokens));
  const auto key = split_heads(to_k_->forward(source));
  const auto value = split_heads(to_v_->forward(source));
  return attention(query, key, value, {.mask = attention_mask});
}

Tensor AttentionImpl::attend_with_added(const Tensor& tokens, const Tensor& context,
                                        const Tensor& attention_mask) const {
  const auto query = split_heads(to_q_->forward(tokens));
  auto key = split_heads(add_k_proj_->forward(context));
  auto value = split_heads(add_v_proj_->forward(context));
  auto mask = attention_mask;
  if (to_k_) {
    key = torch::cat({key, split_heads(to_k_->forward(tokens))}, 2);
    value = torch::cat({value, split_heads(to_v_->forward(tokens))}, 2);
    // The tokens of the image always take part.
    if (mask.defined()) mask = torch::constant_pad_nd(mask, {0, tokens.size(1)});
  }
  return attention(query, key, value, {.mask = mask});
}

Tensor AttentionImpl::forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states,
                              const Tensor& attention_mask, const Tensor& temb) const {
  require<TensorError>(hidden_states.defined() && (hidden_states.dim() == 4 || hidden_states.dim() == 3),
                       "attention: expected [B, C, H, W] or [B, L, C], got {}", describe(hidden_states));
  check_encoder(encoder_hidden_states, hidden_states);
  const bool image = hidden_states.dim() == 4;
  const auto normed = spatial_norm_ ? spatial_norm_->forward(hidden_states, temb) : hidden_states;
  Tensor tokens;
  if (group_norm_) {
    tokens = group_norm_tokens(image ? normed : normed.transpose(1, 2), *options_.norm_num_groups,
                               group_norm_->weight, group_norm_->bias, options_.eps);
  } else {
    tokens = image ? image_to_tokens(normed) : normed;
  }
  Tensor hidden;
  if (add_k_proj_) {
    // As in Python, an image that replaces the encoder's states does so before the norm.
    hidden = attend_with_added(tokens,
                               encoder_hidden_states.defined() ? normalize_encoder(encoder_hidden_states)
                               : image                         ? image_to_tokens(normed)
                                                               : normed,
                               attention_mask);
  } else {
    hidden = attend(tokens, encoder_hidden_states, attention_mask);
  }
  hidden = hidden.transpose(1, 2).flatten(2);  // [B, L, heads * dim_head]
  hidden = layers::dropout(to_out_->forward(hidden), options_.dropout, is_training());

  if (options_.residual_connection) {
    hidden = image ? add_tokens(hidden_states, hidden) : hidden + hidden_states;
  } else if (image) {
    hidden = tokens_to_image(hidden, hidden_states.sizes());
  }
  return options_.rescale_output_factor == 1 ? hidden : hidden / options_.rescale_output_factor;
}

}  // namespace diffusers
