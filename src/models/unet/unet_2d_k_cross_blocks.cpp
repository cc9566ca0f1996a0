#include <algorithm>
#include <memory>

#include "core/require.h"
#include "models/unet/dropout_layout.h"
#include "models/unet/unet_2d_blocks.h"

namespace diffusers {
inline namespace internal {
namespace {

struct KAttentionOptions {
  int64_t channels = 0;
  int64_t head_dim = 64;
  int64_t temb_channels = 0;
  std::optional<int64_t> cross_attention_dim = std::nullopt;
  bool add_self_attention = false;
};

/// KAttentionBlock: optional self-attention, then cross-attention, each after a norm that takes the time
/// embedding.
class KAttentionImpl : public torch::nn::Module {
 public:
  explicit KAttentionImpl(const KAttentionOptions& options) {
    require<ConfigError>(options.head_dim > 0 && options.head_dim <= options.channels,
                         "attention_head_dim is {}, must be from 1 to the {} channels to be split into heads",
                         options.head_dim, options.channels);
    const int64_t groups = std::max<int64_t>(1, options.channels / kKBlockGroupSize);
    AttentionLayerOptions attention{.query_dim = options.channels,
                                    .heads = options.channels / options.head_dim,
                                    .dim_head = options.head_dim,
                                    .bias = true};
    if (options.add_self_attention) {
      norm1_ = register_module("norm1", AdaGroupNorm(options.temb_channels, options.channels, groups));
      attn1_ = register_module("attn1", Attention(attention));
    }
    attention.cross_attention_dim = options.cross_attention_dim;
    attention.cross_attention_norm = CrossAttentionNorm::kLayerNorm;
    norm2_ = register_module("norm2", AdaGroupNorm(options.temb_channels, options.channels, groups));
    attn2_ = register_module("attn2", Attention(attention));
  }

  Tensor forward(const UNetState& state, const Tensor& hidden_states) const {
    auto hidden = hidden_states;
    if (attn1_)
      hidden = attn1_->forward(norm1_->forward(hidden, state.temb), {}, state.attention_mask) + hidden;
    const auto& mask =
        state.encoder_hidden_states.defined() ? state.encoder_attention_mask : state.attention_mask;
    return attn2_->forward(norm2_->forward(hidden, state.temb), state.encoder_hidden_states, mask) + hidden;
  }

 private:
  AdaGroupNorm norm1_{nullptr};
  Attention attn1_{nullptr};
  AdaGroupNorm norm2_{nullptr};
  Attention attn2_{nullptr};
};
TORCH_MODULE(KAttention);

/// KCrossAttnDownBlock2D. It leaves no residual after its downsampling. Without downsampling its residuals
/// are undefined.
class KCrossAttnDownBlock : public UNetBlock {
 public:
  explicit KCrossAttnDownBlock(const UNetBlockOptions& options)
      : resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlockCondNorm2D>>()),
        attentions_(std::make_shared<layers::ModuleVectorImpl<KAttention>>()),
        downsample_(options.add_resample) {
    for (int64_t i = 0; i < options.num_layers; ++i) {
      resnets_->push_back(k_resnet(options, i == 0 ? options.in_channels : options.out_channels,
                                   options.out_channels, options.out_channels));
      attentions_->push_back(KAttention(KAttentionOptions{.channels = options.out_channels,
                                                          .head_dim = options.attention_head_dim,
                                                          .temb_channels = options.temb_channels,
                                                          .cross_attention_dim = options.cross_attention_dim,
                                                          .add_self_attention = !options.add_resample}));
    }
    register_module("resnets", resnets_);
    register_module("attentions", attentions_);
  }

  void run(UNetState& state) const override {
    for (std::size_t i = 0; i < resnets_->size(); ++i) {
      const auto hidden = run_resnet((*resnets_)[i], state.hidden_states, state.temb);
      state.hidden_states = order_for_dropout((*attentions_)[i]->forward(state, hidden), *(*resnets_)[i]);
      state.residuals.push_back(downsample_ ? state.hidden_states : Tensor());
    }
    if (downsample_) state.hidden_states = k_downsample_2d(state.hidden_states);
  }

  AdapterPlace adapter_place() const override { return AdapterPlace::kNone; }

 private:
  layers::ModuleVector<ResnetBlockCondNorm2D> resnets_;
  layers::ModuleVector<KAttention> attentions_;
  bool downsample_;
};

/// KCrossAttnUpBlock2D. It has one residual block fewer than the other blocks of its model and uses one
/// residual for all of them. The block that is as wide as the time embedding uses no residual.
class KCrossAttnUpBlock : public UNetBlock {
 public:
  explicit KCrossAttnUpBlock(const UNetBlockOptions& options)
      : resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlockCondNorm2D>>()),
        attentions_(std::make_shared<layers::ModuleVectorImpl<KAttention>>()),
        upsample_(options.add_resample) {
    const int64_t count = options.num_layers - 1;
    require<ConfigError>(count > 0, "layers_per_block leaves a KCrossAttnUpBlock2D without layers");
    const bool first =
        options.in_channels == options.out_channels && options.out_channels == options.temb_channels;
    for (int64_t i = 0; i < count; ++i) {
      const bool last = i == count - 1;
      const int64_t first_channels = first ? options.out_channels : 2 * options.out_channels;
      resnets_->push_back(k_resnet(
          options, i == 0 ? first_channels : options.out_channels, options.out_channels, options.out_channels,
          last && options.in_channels != options.out_channels ? std::optional(options.in_channels)
                                                              : std::nullopt));
      attentions_->push_back(
          KAttention(KAttentionOptions{.channels = last ? options.in_channels : options.out_channels,
                                       .head_dim = options.attention_head_dim,
                                       .temb_channels = options.temb_channels,
                                       .cross_attention_dim = options.cross_attention_dim,
                                       .add_self_attention = first}));
    }
    register_module("resnets", resnets_);
    register_module("attentions", attentions_);
  }

  void run(UNetState& state) const override {
    const auto residual = take_residual(state);
    for (std::size_t i = 1; i < resnets_->size(); ++i) take_residual(state);
    if (residual.defined()) append_residual(state, residual);
    for (std::size_t i = 0; i < resnets_->size(); ++i) {
      const auto hidden = run_resnet((*resnets_)[i], state.hidden_states, state.temb);
      state.hidden_states = order_for_dropout((*attentions_)[i]->forward(state, hidden), *(*resnets_)[i]);
    }
    if (upsample_) state.hidden_states = k_upsample_2d(state.hidden_states);
  }

 private:
  layers::ModuleVector<ResnetBlockCondNorm2D> resnets_;
  layers::ModuleVector<KAttention> attentions_;
  bool upsample_;
};

}  // namespace

UNetBlockPointer make_k_cross_down_block(const UNetBlockOptions& options) {
  return std::make_shared<KCrossAttnDownBlock>(options);
}

UNetBlockPointer make_k_cross_up_block(const UNetBlockOptions& options) {
  return std::make_shared<KCrossAttnUpBlock>(options);
}

}  // namespace internal
}  // namespace diffusers
