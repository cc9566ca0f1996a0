#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

namespace diffusers {

/// Tokens of an image embedding in front of projected tokens of a text (Kandinsky 2.1).
class TextImageProjectionImpl : public torch::nn::Module {
 public:
  TextImageProjectionImpl(int64_t text_embed_dim, int64_t image_embed_dim, int64_t cross_attention_dim,
                          int64_t num_image_text_embeds = 10);
  /// @param text_embeds `[B, S, text_embed_dim]`
  /// @param image_embeds `[B, image_embed_dim]`
  /// @return `[B, num_image_text_embeds + S, cross_attention_dim]`
  Tensor forward(const Tensor& text_embeds, const Tensor& image_embeds) const;

 private:
  int64_t num_image_text_embeds_;
  layers::Linear image_embeds_{nullptr};
  layers::Linear text_proj_{nullptr};
};
TORCH_MODULE(TextImageProjection);

/// Tokens of an image embedding (Kandinsky 2.2).
class ImageProjectionImpl : public torch::nn::Module {
 public:
  ImageProjectionImpl(int64_t image_embed_dim, int64_t cross_attention_dim,
                      int64_t num_image_text_embeds = 32);
  /// @param image_embeds `[B, image_embed_dim]`
  /// @return `[B, num_image_text_embeds, cross_attention_dim]`
  Tensor forward(const Tensor& image_embeds) const;

 private:
  int64_t num_image_text_embeds_;
  layers::Linear image_embeds_{nullptr};
  layers::LayerNorm norm_{nullptr};
};
TORCH_MODULE(ImageProjection);

/// One vector for a sequence: what the mean of its vectors attends to (DeepFloyd IF).
class AttentionPoolingImpl : public torch::nn::Module {
 public:
  AttentionPoolingImpl(int64_t num_heads, int64_t embed_dim);
  /// @param x `[B, S, embed_dim]`
  /// @return `[B, embed_dim]`
  Tensor forward(const Tensor& x) const;

 private:
  int64_t num_heads_;
  Tensor positional_embedding_;
  layers::Linear k_proj_{nullptr};
  layers::Linear q_proj_{nullptr};
  layers::Linear v_proj_{nullptr};
};
TORCH_MODULE(AttentionPooling);

/// An embedding for the time embedding, from a sequence of text vectors (DeepFloyd IF).
class TextTimeEmbeddingImpl : public torch::nn::Module {
 public:
  TextTimeEmbeddingImpl(int64_t encoder_dim, int64_t time_embed_dim, int64_t num_heads = 64);
  /// @param hidden_states `[B, S, encoder_dim]`
  /// @return `[B, time_embed_dim]`
  Tensor forward(const Tensor& hidden_states) const;

 private:
  layers::LayerNorm norm1_{nullptr};
  AttentionPooling pool_{nullptr};
  layers::Linear proj_{nullptr};
  layers::LayerNorm norm2_{nullptr};
};
TORCH_MODULE(TextTimeEmbedding);

/// The same from a pooled text and an image embedding (Kandinsky 2.1).
class TextImageTimeEmbeddingImpl : public torch::nn::Module {
 public:
  TextImageTimeEmbeddingImpl(int64_t text_embed_dim, int64_t image_embed_dim, int64_t time_embed_dim);
  /// @param text_embeds `[B, text_embed_dim]`
  /// @param image_embeds `[B, image_embed_dim]`
  /// @return `[B, time_embed_dim]`
  Tensor forward(const Tensor& text_embeds, const Tensor& image_embeds) const;

 private:
  layers::Linear text_proj_{nullptr};
  layers::LayerNorm text_norm_{nullptr};
  layers::Linear image_proj_{nullptr};
};
TORCH_MODULE(TextImageTimeEmbedding);

/// The same from an image embedding (Kandinsky 2.2).
class ImageTimeEmbeddingImpl : public torch::nn::Module {
 public:
  ImageTimeEmbeddingImpl(int64_t image_embed_dim, int64_t time_embed_dim);
  /// @param image_embeds `[B, image_embed_dim]`
  /// @return `[B, time_embed_dim]`
  Tensor forward(const Tensor& image_embeds) const;

 private:
  layers::Linear image_proj_{nullptr};
  layers::LayerNorm image_norm_{nullptr};
};
TORCH_MODULE(ImageTimeEmbedding);

/// The same, and four channels for the sample out of a hint image (Kandinsky 2.2 ControlNet).
class ImageHintTimeEmbeddingImpl : public ImageTimeEmbeddingImpl {
 public:
  /// Channels of the hint image, and channels that are made of it.
  static constexpr int64_t kHintChannels = 3;
  static constexpr int64_t kSampleChannels = 4;

  ImageHintTimeEmbeddingImpl(int64_t image_embed_dim, int64_t time_embed_dim);
  /// @param hint `[B, 3, 8 H, 8 W]`
  /// @return `[B, 4, H, W]`
  Tensor encode_hint(const Tensor& hint) const;

 private:
  std::vector<layers::Conv2d> hint_convs_;
};
TORCH_MODULE(ImageHintTimeEmbedding);

}  // namespace diffusers
