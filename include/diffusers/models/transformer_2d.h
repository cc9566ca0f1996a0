#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/attention_layer.h>
#include <diffusers/models/layers.h>

namespace diffusers {

/// The activation between the two linear layers of a `FeedForward`. A gated one ("geglu", "swiglu")
/// multiplies one half of the features by the activation of the other.
enum class FeedForwardActivation { kGelu, kGeluApproximate, kGeglu, kGegluApproximate, kSwiglu, kLinearSilu };
template <>
struct EnumNames<FeedForwardActivation> {
  static constexpr std::string_view kKey = "activation_fn";
  static constexpr std::array<std::pair<FeedForwardActivation, std::string_view>, 6> kTable{
      {{FeedForwardActivation::kGelu, "gelu"},
       {FeedForwardActivation::kGeluApproximate, "gelu-approximate"},
       {FeedForwardActivation::kGeglu, "geglu"},
       {FeedForwardActivation::kGegluApproximate, "geglu-approximate"},
       {FeedForwardActivation::kSwiglu, "swiglu"},
       {FeedForwardActivation::kLinearSilu, "linear-silu"}}};
};

struct FeedForwardOptions {
  std::optional<int64_t> dim_out = std::nullopt;  ///< `dim` by default
  int64_t mult = 4;                               ///< width of the hidden layer, in units of `dim`
  double dropout = 0.0;
  EnumChoice<FeedForwardActivation> activation_fn = FeedForwardActivation::kGeglu;
};

/// linear, activation, dropout, linear (Vaswani et al. 2017, Shazeer 2020; diffusers `FeedForward`).
class FeedForwardImpl : public torch::nn::Module {
 public:
  explicit FeedForwardImpl(int64_t dim, const FeedForwardOptions& options = {});
  /// @param hidden_states `[..., dim]`
  /// @return `[..., dim_out]`
  Tensor forward(const Tensor& hidden_states) const;

 private:
  FeedForwardOptions options_;
  layers::Linear proj_in_{nullptr};
  layers::Linear proj_out_{nullptr};
};
TORCH_MODULE(FeedForward);

struct BasicTransformerBlockOptions {
  int64_t dim = 0;
  int64_t num_attention_heads = 1;
  int64_t attention_head_dim = 64;
  double dropout = 0.0;
  std::optional<int64_t> cross_attention_dim = std::nullopt;  ///< nullopt: only attention to itself
  EnumChoice<FeedForwardActivation> activation_fn = FeedForwardActivation::kGeglu;
  bool attention_bias = false;
  bool only_cross_attention = false;   ///< the first attention, too, is to the encoder
  bool double_self_attention = false;  ///< the second attention, too, is to itself
  double norm_eps = 1e-5;
};

/// Attention to itself, attention to the encoder, feed forward; each behind a layer norm and added to its
/// input (diffusers `BasicTransformerBlock` with "layer_norm").
class BasicTransformerBlockImpl : public torch::nn::Module {
 public:
  explicit BasicTransformerBlockImpl(const BasicTransformerBlockOptions& options);
  /// @param hidden_states `[B, L, dim]`
  /// @param encoder_hidden_states `[B, S, cross_attention_dim]`; undefined: attention to itself
  /// @param attention_mask of the first attention, as `Attention` takes it
  /// @param encoder_attention_mask of the second
  Tensor forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states = {},
                 const Tensor& attention_mask = {}, const Tensor& encoder_attention_mask = {}) const;
  double dropout() const { return options_.dropout; }

 private:
  BasicTransformerBlockOptions options_;
  layers::LayerNorm norm1_{nullptr};
  Attention attn1_{nullptr};
  layers::LayerNorm norm2_{nullptr};
  Attention attn2_{nullptr};
  layers::LayerNorm norm3_{nullptr};
  FeedForward ff_{nullptr};
};
TORCH_MODULE(BasicTransformerBlock);

/// A module that changes an image by transformer blocks over its pixels.
class ImageTransformer : public torch::nn::Module {
 public:
  /// @param hidden_states `[B, in_channels, H, W]`
  /// @param encoder_hidden_states `[B, S, cross_attention_dim]`
  /// @param attention_mask, encoder_attention_mask as `BasicTransformerBlock` takes them
  /// @return shape of hidden_states
  virtual Tensor forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states,
                         const Tensor& attention_mask, const Tensor& encoder_attention_mask) const = 0;
  /// Runs each block again in the backward instead of keeping its intermediate results.
  virtual void set_gradient_checkpointing(bool enabled) = 0;
};
using ImageTransformerPointer = std::shared_ptr<ImageTransformer>;

struct Transformer2DModelOptions {
  int64_t num_attention_heads = 16;
  int64_t attention_head_dim = 88;
  int64_t in_channels = 0;
  int64_t num_layers = 1;
  double dropout = 0.0;
  int64_t norm_num_groups = 32;
  std::optional<int64_t> cross_attention_dim = std::nullopt;
  bool attention_bias = false;
  EnumChoice<FeedForwardActivation> activation_fn = FeedForwardActivation::kGeglu;
  bool use_linear_projection = false;  ///< linear layers at both ends instead of 1x1 convolutions
  bool only_cross_attention = false;
  bool double_self_attention = false;
  double norm_eps = 1e-5;  ///< of the blocks; the group norm in front has 1e-6
};

/// The transformer of a latent diffusion UNet (Rombach et al. 2022; diffusers `Transformer2DModel` over
/// continuous images): group norm, projection, blocks, projection; added to the input.
class Transformer2DModelImpl : public ImageTransformer {
 public:
  explicit Transformer2DModelImpl(const Transformer2DModelOptions& options);
  Tensor forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states,
                 const Tensor& attention_mask, const Tensor& encoder_attention_mask) const override;
  void set_gradient_checkpointing(bool enabled) override { gradient_checkpointing_ = enabled; }

 private:
  Tensor run_block(const BasicTransformerBlock& block, const Tensor& hidden_states,
                   const Tensor& encoder_hidden_states, const Tensor& attention_mask,
                   const Tensor& encoder_attention_mask) const;

  bool gradient_checkpointing_ = false;
  layers::GroupNorm norm_{nullptr};
  layers::Conv2d conv_in_{nullptr};
  layers::Linear linear_in_{nullptr};
  layers::ModuleVector<BasicTransformerBlock> transformer_blocks_;
  layers::Conv2d conv_out_{nullptr};
  layers::Linear linear_out_{nullptr};
};
TORCH_MODULE(Transformer2DModel);

/// Two transformers, each for a part of the encoder's hidden states, whose changes are averaged (Xu et al.
/// 2022, Versatile Diffusion; diffusers `DualTransformer2DModel`). The second one attends to the first 77
/// tokens, the first one to the 257 behind them. Takes no masks.
class DualTransformer2DModelImpl : public ImageTransformer {
 public:
  explicit DualTransformer2DModelImpl(const Transformer2DModelOptions& options);
  Tensor forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states,
                 const Tensor& attention_mask, const Tensor& encoder_attention_mask) const override;
  void set_gradient_checkpointing(bool enabled) override;

 private:
  layers::ModuleVector<Transformer2DModel> transformers_;
};
TORCH_MODULE(DualTransformer2DModel);

}  // namespace diffusers
