#include <memory>

#include "core/require.h"
#include "models/layers/module_list.h"
#include "models/unet/dropout_layout.h"
#include "models/unet/unet_2d_blocks.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Makes attention to the encoder's tokens and, unless only_cross_attention is set, jointly to the image
/// itself.
Attention simple_cross_attention(const UNetBlockOptions& options, int64_t channels, int64_t groups) {
  const int64_t head_dim = options.attention_head_dim;
  require<ConfigError>(head_dim > 0 && head_dim <= channels,
                       "attention_head_dim is {}, must be from 1 to the {} channels to be split into heads",
                       head_dim, channels);
  return Attention(AttentionLayerOptions{.query_dim = channels,
                                         .cross_attention_dim = channels,
                                         .heads = channels / head_dim,
                                         .dim_head = head_dim,
                                         .bias = true,
                                         .cross_attention_norm = options.cross_attention_norm,
                                         .added_kv_proj_dim = options.cross_attention_dim,
                                         .norm_num_groups = groups,
                                         .only_cross_attention = options.only_cross_attention,
                                         .residual_connection = true});
}

/// Applies attention. attention_mask has priority over encoder_attention_mask, which is not needed without
/// encoder states. `resnet` is a residual block of the model.
Tensor attend_simply(const Attention& attention, const UNetState& state, const ResnetBlock2D& resnet,
                     const Tensor& hidden_states) {
  auto mask = state.attention_mask;
  if (!mask.defined() && state.encoder_hidden_states.defined()) mask = state.encoder_attention_mask;
  return order_for_dropout(attention->forward(hidden_states, state.encoder_hidden_states, mask), *resnet);
}

ResnetBlock2DOptions simple_resnet_options(const UNetBlockOptions& options, int64_t in_channels) {
  auto resnet = unet_resnet_options(options, in_channels, options.out_channels);
  resnet.skip_time_act = options.resnet_skip_time_act;
  resnet.output_scale_factor = options.resnet_out_scale_factor;
  return resnet;
}

ResnetBlock2D simple_resampling_resnet(const UNetBlockOptions& options, ResnetResample resample) {
  auto resnet = simple_resnet_options(options, options.out_channels);
  resnet.resample = resample;
  return ResnetBlock2D(resnet);
}

/// SimpleCrossAttnDownBlock2D (DeepFloyd IF, Kandinsky).
class SimpleCrossAttnDownBlock : public UNetBlock {
 public:
  explicit SimpleCrossAttnDownBlock(const UNetBlockOptions& options)
      : attentions_(std::make_shared<layers::ModuleVectorImpl<Attention>>()),
        resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlock2D>>()) {
    const int64_t groups = required_groups(options);
    for (int64_t i = 0; i < options.num_layers; ++i) {
      resnets_->push_back(
          ResnetBlock2D(simple_resnet_options(options, i == 0 ? options.in_channels : options.out_channels)));
      attentions_->push_back(simple_cross_attention(options, options.out_channels, groups));
    }
    register_module("attentions", attentions_);
    register_module("resnets", resnets_);
    if (!options.add_resample) return;
    downsample_ = simple_resampling_resnet(options, ResnetResample::kDown);
    register_list_of_one(*this, "downsamplers", downsample_);
  }

  void run(UNetState& state) const override {
    auto hidden = state.hidden_states;
    for (std::size_t i = 0; i < resnets_->size(); ++i) {
      const auto& resnet = (*resnets_)[i];
      hidden = attend_simply((*attentions_)[i], state, resnet, run_resnet(resnet, hidden, state.temb));
      state.residuals.push_back(hidden);
    }
    if (downsample_) {
      hidden = downsample_->forward(hidden, state.temb);
      state.residuals.push_back(hidden);
    }
    state.hidden_states = hidden;
  }

  AdapterPlace adapter_place() const override { return AdapterPlace::kNone; }

 private:
  layers::ModuleVector<Attention> attentions_;
  layers::ModuleVector<ResnetBlock2D> resnets_;
  ResnetBlock2D downsample_{nullptr};
};

/// SimpleCrossAttnUpBlock2D.
class SimpleCrossAttnUpBlock : public UNetBlock {
 public:
  explicit SimpleCrossAttnUpBlock(const UNetBlockOptions& options)
      : attentions_(std::make_shared<layers::ModuleVectorImpl<Attention>>()),
        resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlock2D>>()) {
    const int64_t groups = required_groups(options);
    for (int64_t i = 0; i < options.num_layers; ++i) {
      resnets_->push_back(ResnetBlock2D(simple_resnet_options(options, up_resnet_in_channels(options, i))));
      attentions_->push_back(simple_cross_attention(options, options.out_channels, groups));
    }
    register_module("attentions", attentions_);
    register_module("resnets", resnets_);
    if (!options.add_resample) return;
    upsample_ = simple_resampling_resnet(options, ResnetResample::kUp);
    register_list_of_one(*this, "upsamplers", upsample_);
  }

  void run(UNetState& state) const override {
    for (std::size_t i = 0; i < resnets_->size(); ++i) {
      append_residual(state, take_residual(state));
      const auto& resnet = (*resnets_)[i];
      state.hidden_states = attend_simply((*attentions_)[i], state, resnet,
                                          run_resnet(resnet, state.hidden_states, state.temb));
    }
    if (upsample_) state.hidden_states = upsample_->forward(state.hidden_states, state.temb);
  }

 private:
  layers::ModuleVector<Attention> attentions_;
  layers::ModuleVector<ResnetBlock2D> resnets_;
  ResnetBlock2D upsample_{nullptr};
};

/// UNetMidBlock2DSimpleCrossAttn.
class SimpleCrossAttnMidBlock : public UNetBlock {
 public:
  explicit SimpleCrossAttnMidBlock(const UNetBlockOptions& options)
      : attentions_(std::make_shared<layers::ModuleVectorImpl<Attention>>()),
        resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlock2D>>()) {
    auto resnet = mid_resnet_options(options);
    resnet.skip_time_act = options.resnet_skip_time_act;
    resnets_->push_back(ResnetBlock2D(resnet));
    attentions_->push_back(simple_cross_attention(options, options.in_channels, resnet.groups));
    resnets_->push_back(ResnetBlock2D(resnet));
    register_module("attentions", attentions_);
    register_module("resnets", resnets_);
  }

  void run(UNetState& state) const override {
    auto hidden = run_resnet((*resnets_)[0], state.hidden_states, state.temb);
    hidden = attend_simply((*attentions_)[0], state, (*resnets_)[0], hidden);
    state.hidden_states = run_resnet((*resnets_)[1], hidden, state.temb);
  }

 private:
  layers::ModuleVector<Attention> attentions_;
  layers::ModuleVector<ResnetBlock2D> resnets_;
};

}  // namespace

UNetBlockPointer make_simple_cross_down_block(const UNetBlockOptions& options) {
  return std::make_shared<SimpleCrossAttnDownBlock>(options);
}

UNetBlockPointer make_simple_cross_up_block(const UNetBlockOptions& options) {
  return std::make_shared<SimpleCrossAttnUpBlock>(options);
}

UNetBlockPointer make_simple_cross_mid_block(const UNetBlockOptions& options) {
  return std::make_shared<SimpleCrossAttnMidBlock>(options);
}

}  // namespace internal
}  // namespace diffusers
