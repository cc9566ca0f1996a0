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

/// Activation between the two linear layers of a `FeedForward`. A gated one multiplies one half of the
/// features by the activation of the other half (Shazeer 2020).
enum class FeedForwardActivation {
  kGelu,              ///< GELU
  kGeluApproximate,   ///< GELU by its tanh approximation
  kGeglu,             ///< gated GELU
  kGegluApproximate,  ///< x sigmoid(1.702 x) (diffusers `ApproximateGELU`)
  kSwiglu,            ///< gated SiLU
  kLinearSilu         ///< SiLU
};
/// Maps each enumerator to Python's string.
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

/// The optional arguments of Python's `FeedForward(...)`.
struct FeedForwardOptions {
  std::optional<int64_t> dim_out = std::nullopt;  ///< width of the result; default: `dim`
  int64_t mult = 4;                               ///< width of the hidden layer divided by `dim`
  double dropout = 0.0;                           ///< dropout probability after the activation
  EnumChoice<FeedForwardActivation> activation_fn = FeedForwardActivation::kGeglu;  ///< activation
};

/// Linear layer, activation, dropout, linear layer (Vaswani et al. 2017, Shazeer 2020; diffusers
/// `FeedForward`).
class FeedForwardImpl : public torch::nn::Module {
 public:
  /// Makes the layers.
  /// @param dim width of the input
  /// @param options the other arguments
  explicit FeedForwardImpl(int64_t dim, const FeedForwardOptions& options = {});
  /// Applies the layers.
  /// @param hidden_states `[..., dim]`
  /// @return `[..., dim_out]`
  Tensor forward(const Tensor& hidden_states) const;

 private:
  FeedForwardOptions options_;
  layers::Linear proj_in_{nullptr};
  layers::Linear proj_out_{nullptr};
};
/// A handle of a `FeedForwardImpl`.
TORCH_MODULE(FeedForward);

/// The arguments of Python's `BasicTransformerBlock(...)`.
struct BasicTransformerBlockOptions {
  int64_t dim = 0;                  ///< width of the tokens
  int64_t num_attention_heads = 1;  ///< number of heads
  int64_t attention_head_dim = 64;  ///< channels of a head
  double dropout = 0.0;             ///< dropout probability in attention and feed forward
  /// Width of the encoder's tokens; nullopt: none.
  std::optional<int64_t> cross_attention_dim = std::nullopt;
  /// Activation of the feed forward.
  EnumChoice<FeedForwardActivation> activation_fn = FeedForwardActivation::kGeglu;
  bool attention_bias = false;         ///< bias of queries, keys and values
  bool only_cross_attention = false;   ///< the first attention also attends to the encoder
  bool double_self_attention = false;  ///< the second attention is also self-attention
  double norm_eps = 1e-5;              ///< epsilon of the layer norms
};

/// Self-attention, attention to the encoder, feed forward; each after a layer norm and added to its input
/// (Vaswani et al. 2017; diffusers `BasicTransformerBlock` with "layer_norm").
class BasicTransformerBlockImpl : public torch::nn::Module {
 public:
  /// Makes the layers.
  /// @param options the arguments of the block
  explicit BasicTransformerBlockImpl(const BasicTransformerBlockOptions& options);
  /// Applies the block.
  /// @param hidden_states `[B, L, dim]`
  /// @param encoder_hidden_states `[B, S, cross_attention_dim]`; undefined for self-attention
  /// @param attention_mask mask of the first attention, as `Attention` takes it
  /// @param encoder_attention_mask mask of the second attention
  /// @return shape of hidden_states
  Tensor forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states = {},
                 const Tensor& attention_mask = {}, const Tensor& encoder_attention_mask = {}) const;
  /// @return dropout probability of the block
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
/// A handle of a `BasicTransformerBlockImpl`.
TORCH_MODULE(BasicTransformerBlock);

/// Base of the modules that apply transformer blocks to the positions of an image.
class ImageTransformer : public torch::nn::Module {
 public:
  /// Applies the transformer.
  /// @param hidden_states `[B, in_channels, H, W]`
  /// @param encoder_hidden_states `[B, S, cross_attention_dim]`
  /// @param attention_mask mask of self-attention, as `Attention` takes it
  /// @param encoder_attention_mask mask of the attention to the encoder
  /// @return shape of hidden_states
  virtual Tensor forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states,
                         const Tensor& attention_mask, const Tensor& encoder_attention_mask) const = 0;
  /// Sets gradient checkpointing of the blocks.
  /// @param enabled recomputes each block in the backward pass instead of keeping its intermediate results
  virtual void set_gradient_checkpointing(bool enabled) = 0;
};
/// A shared pointer to an image transformer.
using ImageTransformerPointer = std::shared_ptr<ImageTransformer>;

/// The arguments of Python's `Transformer2DModel(...)`.
struct Transformer2DModelOptions {
  int64_t num_attention_heads = 16;  ///< number of heads
  int64_t attention_head_dim = 88;   ///< channels of a head
  int64_t in_channels = 0;           ///< channels of the input
  int64_t num_layers = 1;            ///< number of blocks
  double dropout = 0.0;              ///< dropout probability in the blocks
  int64_t norm_num_groups = 32;      ///< groups of the group norm
  /// Width of the encoder's tokens; nullopt: none.
  std::optional<int64_t> cross_attention_dim = std::nullopt;
  bool attention_bias = false;  ///< bias of queries, keys and values
  /// Activation of the feed forward.
  EnumChoice<FeedForwardActivation> activation_fn = FeedForwardActivation::kGeglu;
  bool use_linear_projection = false;  ///< linear layers at both ends instead of 1x1 convolutions
  bool only_cross_attention = false;   ///< the first attention of a block also attends to the encoder
  bool double_self_attention = false;  ///< the second attention of a block is also self-attention
  double norm_eps = 1e-5;              ///< epsilon of the layer norms; the group norm has 1e-6
};

/// The transformer of a latent diffusion UNet: group norm, projection, blocks, projection; added to the input
/// (Rombach et al. 2022; diffusers `Transformer2DModel` over continuous images).
class Transformer2DModelImpl : public ImageTransformer {
 public:
  /// Makes the layers.
  /// @param options the arguments of the module
  /// @throws ConfigError unless the groups divide the channels
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
/// A handle of a `Transformer2DModelImpl`.
TORCH_MODULE(Transformer2DModel);

/// Two transformers, each for a part of the encoder's hidden states. Their residuals are averaged
/// (Xu et al. 2022, Versatile Diffusion; diffusers `DualTransformer2DModel`). The second one attends to the
/// first 77 tokens, the first one to the 257 tokens after them. Masks are not supported.
class DualTransformer2DModelImpl : public ImageTransformer {
 public:
  /// Makes both transformers.
  /// @param options the arguments of each
  /// @throws ConfigError unless the groups divide the channels
  explicit DualTransformer2DModelImpl(const Transformer2DModelOptions& options);
  Tensor forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states,
                 const Tensor& attention_mask, const Tensor& encoder_attention_mask) const override;
  void set_gradient_checkpointing(bool enabled) override;

 private:
  layers::ModuleVector<Transformer2DModel> transformers_;
};
/// A handle of a `DualTransformer2DModelImpl`.
TORCH_MODULE(DualTransformer2DModel);

}  // namespace diffusers
