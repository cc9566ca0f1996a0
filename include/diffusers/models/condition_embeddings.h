#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

namespace diffusers {

/// Projects an image embedding to tokens and concatenates them before the projected tokens of a text
/// (Kandinsky 2.1; diffusers `TextImageProjection`).
class TextImageProjectionImpl : public torch::nn::Module {
 public:
  /// Makes the projections.
  /// @param text_embed_dim width of the text's tokens
  /// @param image_embed_dim width of the image embedding
  /// @param cross_attention_dim width of the result
  /// @param num_image_text_embeds number of tokens of an image
  TextImageProjectionImpl(int64_t text_embed_dim, int64_t image_embed_dim, int64_t cross_attention_dim,
                          int64_t num_image_text_embeds = 10);
  /// Projects text and image.
  /// @param text_embeds `[B, S, text_embed_dim]`
  /// @param image_embeds `[B, image_embed_dim]`
  /// @return `[B, num_image_text_embeds + S, cross_attention_dim]`
  Tensor forward(const Tensor& text_embeds, const Tensor& image_embeds) const;

 private:
  int64_t num_image_text_embeds_;
  layers::Linear image_embeds_{nullptr};
  layers::Linear text_proj_{nullptr};
};
/// A handle of a `TextImageProjectionImpl`.
TORCH_MODULE(TextImageProjection);

/// Projects an image embedding to tokens (Kandinsky 2.2; diffusers `ImageProjection`).
class ImageProjectionImpl : public torch::nn::Module {
 public:
  /// Makes the projection.
  /// @param image_embed_dim width of the image embedding
  /// @param cross_attention_dim width of the result
  /// @param num_image_text_embeds number of tokens of an image
  ImageProjectionImpl(int64_t image_embed_dim, int64_t cross_attention_dim,
                      int64_t num_image_text_embeds = 32);
  /// Projects an image embedding.
  /// @param image_embeds `[B, image_embed_dim]`
  /// @return `[B, num_image_text_embeds, cross_attention_dim]`
  Tensor forward(const Tensor& image_embeds) const;

 private:
  int64_t num_image_text_embeds_;
  layers::Linear image_embeds_{nullptr};
  layers::LayerNorm norm_{nullptr};
};
/// A handle of an `ImageProjectionImpl`.
TORCH_MODULE(ImageProjection);

/// Pools a sequence to one vector by attention from the mean of its vectors (DeepFloyd IF; diffusers
/// `AttentionPooling`).
class AttentionPoolingImpl : public torch::nn::Module {
 public:
  /// Makes the projections.
  /// @param num_heads number of heads, divides embed_dim
  /// @param embed_dim width of the vectors
  AttentionPoolingImpl(int64_t num_heads, int64_t embed_dim);
  /// Pools a sequence.
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
/// A handle of an `AttentionPoolingImpl`.
TORCH_MODULE(AttentionPooling);

/// Embeds a sequence of text vectors for the time embedding (DeepFloyd IF; diffusers `TextTimeEmbedding`).
class TextTimeEmbeddingImpl : public torch::nn::Module {
 public:
  /// Makes norms, pooling and projection.
  /// @param encoder_dim width of the text vectors
  /// @param time_embed_dim width of the result
  /// @param num_heads heads of the pooling
  TextTimeEmbeddingImpl(int64_t encoder_dim, int64_t time_embed_dim, int64_t num_heads = 64);
  /// Embeds a text.
  /// @param hidden_states `[B, S, encoder_dim]`
  /// @return `[B, time_embed_dim]`
  Tensor forward(const Tensor& hidden_states) const;

 private:
  layers::LayerNorm norm1_{nullptr};
  AttentionPooling pool_{nullptr};
  layers::Linear proj_{nullptr};
  layers::LayerNorm norm2_{nullptr};
};
/// A handle of a `TextTimeEmbeddingImpl`.
TORCH_MODULE(TextTimeEmbedding);

/// Embeds a pooled text and an image embedding for the time embedding (Kandinsky 2.1; diffusers
/// `TextImageTimeEmbedding`).
class TextImageTimeEmbeddingImpl : public torch::nn::Module {
 public:
  /// Makes the projections.
  /// @param text_embed_dim width of the pooled text
  /// @param image_embed_dim width of the image embedding
  /// @param time_embed_dim width of the result
  TextImageTimeEmbeddingImpl(int64_t text_embed_dim, int64_t image_embed_dim, int64_t time_embed_dim);
  /// Embeds a text and an image.
  /// @param text_embeds `[B, text_embed_dim]`
  /// @param image_embeds `[B, image_embed_dim]`
  /// @return `[B, time_embed_dim]`
  Tensor forward(const Tensor& text_embeds, const Tensor& image_embeds) const;

 private:
  layers::Linear text_proj_{nullptr};
  layers::LayerNorm text_norm_{nullptr};
  layers::Linear image_proj_{nullptr};
};
/// A handle of a `TextImageTimeEmbeddingImpl`.
TORCH_MODULE(TextImageTimeEmbedding);

/// Embeds an image embedding for the time embedding (Kandinsky 2.2; diffusers `ImageTimeEmbedding`).
class ImageTimeEmbeddingImpl : public torch::nn::Module {
 public:
  /// Makes projection and norm.
  /// @param image_embed_dim width of the image embedding
  /// @param time_embed_dim width of the result
  ImageTimeEmbeddingImpl(int64_t image_embed_dim, int64_t time_embed_dim);
  /// Embeds an image embedding.
  /// @param image_embeds `[B, image_embed_dim]`
  /// @return `[B, time_embed_dim]`
  Tensor forward(const Tensor& image_embeds) const;

 private:
  layers::Linear image_proj_{nullptr};
  layers::LayerNorm image_norm_{nullptr};
};
/// A handle of an `ImageTimeEmbeddingImpl`.
TORCH_MODULE(ImageTimeEmbedding);

/// An `ImageTimeEmbedding` that also computes four channels for the sample from a hint image (Kandinsky 2.2
/// ControlNet; diffusers `ImageHintTimeEmbedding`).
class ImageHintTimeEmbeddingImpl : public ImageTimeEmbeddingImpl {
 public:
  static constexpr int64_t kHintChannels = 3;    ///< channels of the hint image
  static constexpr int64_t kSampleChannels = 4;  ///< channels that are computed from the hint image

  /// Makes projection, norm and convolutions.
  /// @param image_embed_dim width of the image embedding
  /// @param time_embed_dim width of the result
  ImageHintTimeEmbeddingImpl(int64_t image_embed_dim, int64_t time_embed_dim);
  /// Computes the channels for the sample.
  /// @param hint `[B, 3, 8 H, 8 W]`
  /// @return `[B, 4, H, W]`
  Tensor encode_hint(const Tensor& hint) const;

 private:
  std::vector<layers::Conv2d> hint_convs_;
};
/// A handle of an `ImageHintTimeEmbeddingImpl`.
TORCH_MODULE(ImageHintTimeEmbedding);

}  // namespace diffusers
