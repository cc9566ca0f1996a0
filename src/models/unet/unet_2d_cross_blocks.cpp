#include <memory>

#include <diffusers/models/transformer_2d.h>

#include "core/require.h"
#include "models/layers/module_list.h"
#include "models/unet/unet_2d_blocks.h"

namespace diffusers {
inline namespace internal {
namespace {

/// The transformers of a CrossAttn block, one for each layer.
class Transformers {
 public:
  Transformers() : list_(std::make_shared<layers::ModuleVectorImpl<ImageTransformerPointer>>()) {}

  void push_back(const UNetBlockOptions& options, int64_t channels, int64_t groups) {
    const int64_t heads = options.num_attention_heads;
    require<ConfigError>(
        heads > 0 && heads <= channels,
        "attention_head_dim is {}, which here is the number of heads and must be from 1 to the "
        "{} channels",
        heads, channels);
    Transformer2DModelOptions transformer{.num_attention_heads = heads,
                                          .attention_head_dim = channels / heads,
                                          .in_channels = channels,
                                          .norm_num_groups = groups,
                                          .cross_attention_dim = options.cross_attention_dim};
    if (options.dual_cross_attention) {
      list_->push_back(std::make_shared<DualTransformer2DModelImpl>(transformer));
      return;
    }
    const auto& counts = options.transformer_layers_per_block;
    const std::size_t index = counts.is_list() ? list_->size() : 0;
    require<ConfigError>(index < counts.values().size(),
                         "transformer_layers_per_block has {} elements for a block with more layers: {}",
                         counts.values().size(), counts.values());
    transformer.num_layers = counts.values()[index];
    transformer.use_linear_projection = options.use_linear_projection;
    transformer.only_cross_attention = options.only_cross_attention;
    list_->push_back(std::make_shared<Transformer2DModelImpl>(transformer));
  }
  Tensor run(std::size_t index, const UNetState& state, const Tensor& hidden_states) const {
    return (*list_)[index]->forward(hidden_states, state.encoder_hidden_states, state.attention_mask,
                                    state.encoder_attention_mask);
  }
  void set_gradient_checkpointing(bool enabled) const {
    for (const auto& transformer : *list_) transformer->set_gradient_checkpointing(enabled);
  }
  const layers::ModuleVector<ImageTransformerPointer>& list() const { return list_; }

 private:
  layers::ModuleVector<ImageTransformerPointer> list_;
};

/// CrossAttnDownBlock2D: residual blocks, each followed by a transformer, then a convolution that halves the
/// resolution.
class CrossAttnDownBlock : public UNetBlock {
 public:
  explicit CrossAttnDownBlock(const UNetBlockOptions& options)
      : resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlock2D>>()) {
    const int64_t groups = required_groups(options);
    for (int64_t i = 0; i < options.num_layers; ++i) {
      resnets_->push_back(ResnetBlock2D(unet_resnet_options(
          options, i == 0 ? options.in_channels : options.out_channels, options.out_channels)));
      transformers_.push_back(options, options.out_channels, groups);
    }
    register_module("attentions", transformers_.list());
    register_module("resnets", resnets_);
    if (!options.add_resample) return;
    downsample_ = Downsample2D(options.out_channels,
                               Downsample2DOptions{.use_conv = true, .padding = options.downsample_padding});
    register_list_of_one(*this, "downsamplers", downsample_);
  }

  void run(UNetState& state) const override {
    auto hidden = state.hidden_states;
    for (std::size_t i = 0; i < resnets_->size(); ++i) {
      hidden = transformers_.run(i, state, run_resnet((*resnets_)[i], hidden, state.temb));
      if (i + 1 == resnets_->size() && state.additional_residual.defined())
        hidden = hidden + fitting_residual(state.additional_residual, hidden);
      state.residuals.push_back(hidden);
    }
    if (downsample_) {
      hidden = downsample_->forward(hidden);
      state.residuals.push_back(hidden);
    }
    state.hidden_states = hidden;
  }

  AdapterPlace adapter_place() const override { return AdapterPlace::kInside; }
  void set_gradient_checkpointing(bool enabled) override {
    UNetBlock::set_gradient_checkpointing(enabled);
    transformers_.set_gradient_checkpointing(enabled);
  }

 private:
  Transformers transformers_;
  layers::ModuleVector<ResnetBlock2D> resnets_;
  Downsample2D downsample_{nullptr};
};

/// CrossAttnUpBlock2D.
class CrossAttnUpBlock : public UNetBlock {
 public:
  explicit CrossAttnUpBlock(const UNetBlockOptions& options)
      : resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlock2D>>()) {
    const int64_t groups = required_groups(options);
    for (int64_t i = 0; i < options.num_layers; ++i) {
      resnets_->push_back(ResnetBlock2D(
          unet_resnet_options(options, up_resnet_in_channels(options, i), options.out_channels)));
      transformers_.push_back(options, options.out_channels, groups);
    }
    register_module("attentions", transformers_.list());
    register_module("resnets", resnets_);
    if (!options.add_resample) return;
    upsample_ = Upsample2D(options.out_channels, Upsample2DOptions{.use_conv = true});
    register_list_of_one(*this, "upsamplers", upsample_);
  }

  void run(UNetState& state) const override {
    for (std::size_t i = 0; i < resnets_->size(); ++i) {
      append_residual(state, apply_freeu(state, take_residual(state)));
      state.hidden_states =
          transformers_.run(i, state, run_resnet((*resnets_)[i], state.hidden_states, state.temb));
    }
    if (upsample_) state.hidden_states = upsample_->forward(state.hidden_states, forwarded_size(state));
  }

  void set_gradient_checkpointing(bool enabled) override {
    UNetBlock::set_gradient_checkpointing(enabled);
    transformers_.set_gradient_checkpointing(enabled);
  }

 private:
  Transformers transformers_;
  layers::ModuleVector<ResnetBlock2D> resnets_;
  Upsample2D upsample_{nullptr};
};

/// UNetMidBlock2DCrossAttn: a residual block, a transformer, a residual block.
class CrossAttnMidBlock : public UNetBlock {
 public:
  explicit CrossAttnMidBlock(const UNetBlockOptions& options)
      : resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlock2D>>()) {
    const auto resnet = mid_resnet_options(options);
    auto transformer = options;
    transformer.only_cross_attention = false;  // has no effect here, as in Python
    resnets_->push_back(ResnetBlock2D(resnet));
    transformers_.push_back(transformer, options.in_channels, resnet.groups);
    resnets_->push_back(ResnetBlock2D(resnet));
    register_module("attentions", transformers_.list());
    register_module("resnets", resnets_);
  }

  void run(UNetState& state) const override {
    // As in Python, the first residual block is never checkpointed.
    const auto hidden = (*resnets_)[0]->forward(state.hidden_states, state.temb);
    state.hidden_states = run_resnet((*resnets_)[1], transformers_.run(0, state, hidden), state.temb);
  }

  void set_gradient_checkpointing(bool enabled) override {
    UNetBlock::set_gradient_checkpointing(enabled);
    transformers_.set_gradient_checkpointing(enabled);
  }

 private:
  Transformers transformers_;
  layers::ModuleVector<ResnetBlock2D> resnets_;
};

}  // namespace

UNetBlockPointer make_cross_down_block(const UNetBlockOptions& options) {
  return std::make_shared<CrossAttnDownBlock>(options);
}

UNetBlockPointer make_cross_up_block(const UNetBlockOptions& options) {
  return std::make_shared<CrossAttnUpBlock>(options);
}

UNetBlockPointer make_cross_mid_block(const UNetBlockOptions& options) {
  return std::make_shared<CrossAttnMidBlock>(options);
}

}  // namespace internal
}  // namespace diffusers
