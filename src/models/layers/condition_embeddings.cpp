#include <array>
#include <cmath>
#include <memory>
#include <string>

#include <diffusers/models/condition_embeddings.h>

#include <torch/types.h>

#include "core/require.h"

namespace diffusers {

TextImageProjectionImpl::TextImageProjectionImpl(int64_t text_embed_dim, int64_t image_embed_dim,
                                                 int64_t cross_attention_dim, int64_t num_image_text_embeds)
    : num_image_text_embeds_(num_image_text_embeds) {
  image_embeds_ = register_module(
      "image_embeds", layers::Linear(image_embed_dim, num_image_text_embeds * cross_attention_dim));
  text_proj_ = register_module("text_proj", layers::Linear(text_embed_dim, cross_attention_dim));
}

Tensor TextImageProjectionImpl::forward(const Tensor& text_embeds, const Tensor& image_embeds) const {
  const auto image =
      image_embeds_->forward(image_embeds).flatten(1).unflatten(1, {num_image_text_embeds_, -1});
  return torch::cat({image, text_proj_->forward(text_embeds)}, 1);
}

ImageProjectionImpl::ImageProjectionImpl(int64_t image_embed_dim, int64_t cross_attention_dim,
                                         int64_t num_image_text_embeds)
    : num_image_text_embeds_(num_image_text_embeds) {
  image_embeds_ = register_module(
      "image_embeds", layers::Linear(image_embed_dim, num_image_text_embeds * cross_attention_dim));
  norm_ = register_module("norm", layers::LayerNorm(cross_attention_dim));
}

Tensor ImageProjectionImpl::forward(const Tensor& image_embeds) const {
  const auto tokens = image_embeds_->forward(image_embeds);
  return norm_->forward(tokens.flatten(1).unflatten(1, {num_image_text_embeds_, -1}));
}

AttentionPoolingImpl::AttentionPoolingImpl(int64_t num_heads, int64_t embed_dim) : num_heads_(num_heads) {
  require<ConfigError>(num_heads > 0 && embed_dim > 0 && embed_dim % num_heads == 0,
                       "addition_embed_type_num_heads is {}, which does not divide the {} channels of the "
                       "encoder's hidden states",
                       num_heads, embed_dim);
  const auto start = layers::SkipInitGuard::active()
                         ? torch::empty({1, embed_dim})
                         : torch::randn({1, embed_dim}) / std::sqrt(static_cast<double>(embed_dim));
  positional_embedding_ = register_parameter("positional_embedding", start);
  k_proj_ = register_module("k_proj", layers::Linear(embed_dim, embed_dim));
  q_proj_ = register_module("q_proj", layers::Linear(embed_dim, embed_dim));
  v_proj_ = register_module("v_proj", layers::Linear(embed_dim, embed_dim));
}

Tensor AttentionPoolingImpl::forward(const Tensor& x) const {
  const auto batch = x.size(0);
  const auto width = x.size(2);
  const auto class_token = x.mean(1, /*keepdim=*/true) + positional_embedding_.to(x.scalar_type());
  const auto tokens = torch::cat({class_token, x}, 1);
  const int64_t head_width = width / num_heads_;
  const auto split = [&](const Tensor& projected) {
    return projected.view({batch, projected.size(1), num_heads_, head_width}).transpose(1, 2);
  };
  const double scale = 1 / std::sqrt(std::sqrt(static_cast<double>(head_width)));
  const auto scores = torch::matmul(split(q_proj_->forward(class_token)) * scale,
                                    (split(k_proj_->forward(tokens)) * scale).transpose(2, 3));
  // As in Python, in float32 for every dtype.
  const auto weights = torch::softmax(scores.to(torch::kFloat32), -1).to(scores.scalar_type());
  return torch::matmul(weights, split(v_proj_->forward(tokens))).reshape({batch, width});
}

TextTimeEmbeddingImpl::TextTimeEmbeddingImpl(int64_t encoder_dim, int64_t time_embed_dim, int64_t num_heads) {
  norm1_ = register_module("norm1", layers::LayerNorm(encoder_dim));
  pool_ = register_module("pool", AttentionPooling(num_heads, encoder_dim));
  proj_ = register_module("proj", layers::Linear(encoder_dim, time_embed_dim));
  norm2_ = register_module("norm2", layers::LayerNorm(time_embed_dim));
}

Tensor TextTimeEmbeddingImpl::forward(const Tensor& hidden_states) const {
  return norm2_->forward(proj_->forward(pool_->forward(norm1_->forward(hidden_states))));
}

TextImageTimeEmbeddingImpl::TextImageTimeEmbeddingImpl(int64_t text_embed_dim, int64_t image_embed_dim,
                                                       int64_t time_embed_dim) {
  text_proj_ = register_module("text_proj", layers::Linear(text_embed_dim, time_embed_dim));
  text_norm_ = register_module("text_norm", layers::LayerNorm(time_embed_dim));
  image_proj_ = register_module("image_proj", layers::Linear(image_embed_dim, time_embed_dim));
}

Tensor TextImageTimeEmbeddingImpl::forward(const Tensor& text_embeds, const Tensor& image_embeds) const {
  return image_proj_->forward(image_embeds) + text_norm_->forward(text_proj_->forward(text_embeds));
}

ImageTimeEmbeddingImpl::ImageTimeEmbeddingImpl(int64_t image_embed_dim, int64_t time_embed_dim) {
  image_proj_ = register_module("image_proj", layers::Linear(image_embed_dim, time_embed_dim));
  image_norm_ = register_module("image_norm", layers::LayerNorm(time_embed_dim));
}

Tensor ImageTimeEmbeddingImpl::forward(const Tensor& image_embeds) const {
  return image_norm_->forward(image_proj_->forward(image_embeds));
}

ImageHintTimeEmbeddingImpl::ImageHintTimeEmbeddingImpl(int64_t image_embed_dim, int64_t time_embed_dim)
    : ImageTimeEmbeddingImpl(image_embed_dim, time_embed_dim) {
  struct Stage {
    int64_t channels;
    int64_t stride;
  };
  constexpr std::array<Stage, 8> kStages{
      {{16, 1}, {16, 1}, {32, 2}, {32, 1}, {96, 2}, {96, 1}, {256, 2}, {kSampleChannels, 1}}};
  auto block = std::make_shared<torch::nn::Module>();
  int64_t channels = kHintChannels;
  for (const auto& stage : kStages) {
    layers::Conv2d conv(channels, stage.channels,
                        layers::Conv2dOptions{.kernel_size = 3, .stride = stage.stride, .padding = 1});
    // In Python the activations between the convolutions are numbered as well.
    block->register_module(std::to_string(2 * hint_convs_.size()), conv);
    hint_convs_.push_back(conv);
    channels = stage.channels;
  }
  register_module("input_hint_block", block);
}

Tensor ImageHintTimeEmbeddingImpl::encode_hint(const Tensor& hint) const {
  auto hidden = hint_convs_.front()->forward(hint);
  for (std::size_t i = 1; i < hint_convs_.size(); ++i) hidden = hint_convs_[i]->forward(torch::silu(hidden));
  return hidden;
}

}  // namespace diffusers
