#include "text/clip_layers.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <diffusers/models/gradient_checkpointing.h>
#include <diffusers/ops/attention.h>

#include <torch/nn/init.h>
#include <torch/types.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace clip {
namespace {

/// Initialises a linear layer as the base class of transformers' models does.
void draw_common(const layers::Linear& layer, double std) {
  draw_normal(layer->weight, std);
  const torch::NoGradGuard no_grad;
  if (layer->bias.defined()) layer->bias.zero_();
}

/// Returns hidden_size^-1/2 (2 num_hidden_layers)^-1/2 factor, the standard deviation for layers before a
/// residual sum.
double residual_std(const CLIPTextConfig& config) {
  return std::pow(static_cast<double>(config.hidden_size), -0.5) *
         std::pow(2.0 * static_cast<double>(config.num_hidden_layers), -0.5) * config.initializer_factor;
}

}  // namespace

double common_std(const CLIPTextConfig& config) {
  return config.initializer_range == 0 ? 0.02 : config.initializer_range;
}

void draw_normal(const Tensor& weight, double std) { torch::nn::init::normal_(weight, 0.0, std); }

TextEmbeddingsImpl::TextEmbeddingsImpl(const CLIPTextConfig& config) {
  token_embedding_ =
      register_module("token_embedding", layers::Embedding(config.vocab_size, config.hidden_size));
  position_embedding_ = register_module(
      "position_embedding", layers::Embedding(config.max_position_embeddings, config.hidden_size));
}

void TextEmbeddingsImpl::init_weights(const CLIPTextConfig& config) {
  for (const double std : {common_std(config), config.initializer_factor * 0.02}) {
    draw_normal(token_embedding_->weight, std);
    draw_normal(position_embedding_->weight, std);
  }
}

Tensor TextEmbeddingsImpl::token_vectors(const Tensor& input_ids) const {
  Tensor vectors = token_embedding_->forward(input_ids);
  if (!learned_rows_.defined()) return vectors;
  const Tensor place = input_ids - first_learned_;
  const int64_t count = learned_rows_.size(0);
  const Tensor is_learned = place.ge(0).logical_and(place.lt(count)).unsqueeze(-1);
  return at::where(is_learned, at::embedding(learned_rows_, place.clamp(0, count - 1)), vectors);
}

Tensor TextEmbeddingsImpl::forward(const Tensor& input_ids, const Tensor& position_ids) const {
  return token_vectors(input_ids) + position_embedding_->forward(position_ids);
}

void TextEmbeddingsImpl::set_learned_rows(int64_t first, Tensor rows) {
  first_learned_ = first;
  learned_rows_ = std::move(rows);
}

void TextEmbeddingsImpl::resize(int64_t num_tokens) {
  const torch::NoGradGuard no_grad;
  const Tensor old = token_embedding_->weight;
  const layers::SkipInitGuard skip_init;
  layers::Embedding grown(num_tokens, old.size(1));
  grown->to(old.device(), old.scalar_type());
  grown->train(token_embedding_->is_training());
  const auto kept = std::min(old.size(0), num_tokens);
  grown->weight.narrow(0, 0, kept).copy_(old.narrow(0, 0, kept));
  if (num_tokens > kept)
    grown->weight.narrow(0, kept, num_tokens - kept).copy_(old.to(at::kFloat).mean(0, /*keepdim=*/true));
  grown->weight.requires_grad_(old.requires_grad());
  token_embedding_ = replace_module("token_embedding", grown);
}

SelfAttentionImpl::SelfAttentionImpl(const CLIPTextConfig& config)
    : heads_(config.num_attention_heads), dropout_(config.attention_dropout) {
  const auto linear = [&](const char* name) {
    return register_module(name, layers::Linear(config.hidden_size, config.hidden_size));
  };
  k_proj_ = linear("k_proj");
  v_proj_ = linear("v_proj");
  q_proj_ = linear("q_proj");
  out_proj_ = linear("out_proj");
}

void SelfAttentionImpl::init_weights(const CLIPTextConfig& config) {
  for (const auto& layer : {k_proj_, v_proj_, q_proj_, out_proj_}) draw_common(layer, common_std(config));
  for (const auto& layer : {q_proj_, k_proj_, v_proj_}) draw_normal(layer->weight, residual_std(config));
  draw_normal(out_proj_->weight,
              std::pow(static_cast<double>(config.hidden_size), -0.5) * config.initializer_factor);
}

Tensor SelfAttentionImpl::forward(const Tensor& hidden_states, const Tensor& mask) const {
  const auto split = [&](const Tensor& states) {
    return states.unflatten(-1, {heads_, states.size(-1) / heads_}).transpose(1, 2);
  };
  const auto query = split(q_proj_->forward(hidden_states));
  const auto key = split(k_proj_->forward(hidden_states));
  const auto value = split(v_proj_->forward(hidden_states));
  const bool is_causal = !mask.defined();
  Tensor attended;
  if (is_training() && dropout_ > 0) {
    attended = at::scaled_dot_product_attention(
        query, key, value, is_causal ? std::nullopt : std::optional<Tensor>(mask), dropout_, is_causal);
  } else {
    attended = attention(query, key, value, {.mask = mask, .is_causal = is_causal});
  }
  return out_proj_->forward(attended.transpose(1, 2).flatten(2));
}

PerceptronImpl::PerceptronImpl(const CLIPTextConfig& config)
    : activation_(activation_function(config.hidden_act)) {
  fc1_ = register_module("fc1", layers::Linear(config.hidden_size, config.intermediate_size));
  fc2_ = register_module("fc2", layers::Linear(config.intermediate_size, config.hidden_size));
}

void PerceptronImpl::init_weights(const CLIPTextConfig& config) {
  draw_common(fc1_, common_std(config));
  draw_common(fc2_, common_std(config));
  draw_normal(fc1_->weight,
              std::pow(2.0 * static_cast<double>(config.hidden_size), -0.5) * config.initializer_factor);
  draw_normal(fc2_->weight, residual_std(config));
}

Tensor PerceptronImpl::forward(const Tensor& hidden_states) const {
  return fc2_->forward(activation_(fc1_->forward(hidden_states)));
}

EncoderLayerImpl::EncoderLayerImpl(const CLIPTextConfig& config) {
  self_attn_ = register_module("self_attn", std::make_shared<SelfAttentionImpl>(config));
  layer_norm1_ = register_module("layer_norm1", layers::LayerNorm(config.hidden_size, config.layer_norm_eps));
  mlp_ = register_module("mlp", std::make_shared<PerceptronImpl>(config));
  layer_norm2_ = register_module("layer_norm2", layers::LayerNorm(config.hidden_size, config.layer_norm_eps));
}

void EncoderLayerImpl::init_weights(const CLIPTextConfig& config) {
  self_attn_->init_weights(config);
  mlp_->init_weights(config);
}

Tensor EncoderLayerImpl::forward(const Tensor& hidden_states, const Tensor& mask) const {
  const auto attended = hidden_states + self_attn_->forward(layer_norm1_->forward(hidden_states), mask);
  return attended + mlp_->forward(layer_norm2_->forward(attended));
}

EncoderImpl::EncoderImpl(const CLIPTextConfig& config) : uses_random_(config.attention_dropout > 0) {
  layers_ = register_module("layers",
                            std::make_shared<layers::ModuleVectorImpl<std::shared_ptr<EncoderLayerImpl>>>());
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    layers_->push_back(std::make_shared<EncoderLayerImpl>(config));
}

void EncoderImpl::init_weights(const CLIPTextConfig& config) {
  for (const auto& layer : *layers_) layer->init_weights(config);
}

Tensor EncoderImpl::forward(Tensor hidden_states, const Tensor& mask, bool checkpointing,
                            std::vector<Tensor>* states) const {
  for (const auto& layer : *layers_) {
    if (states != nullptr) states->push_back(hidden_states);
    if (checkpointing && is_training()) {
      const auto body = [layer, mask](const std::vector<Tensor>& inputs) {
        return layer->forward(inputs[0], mask);
      };
      hidden_states = checkpoint(body, {hidden_states}, *layer, uses_random_);
    } else {
      hidden_states = layer->forward(hidden_states, mask);
    }
  }
  if (states != nullptr) states->push_back(hidden_states);
  return hidden_states;
}

}  // namespace clip
}  // namespace internal
}  // namespace diffusers
