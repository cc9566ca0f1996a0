#include <algorithm>
#include <memory>
#include <numbers>

#include "core/require.h"
#include "models/unet/dropout_layout.h"
#include "models/unet/unet_2d_blocks.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Channels of the image that Skip blocks pass on. As in Python, the number does not depend on the model.
constexpr int64_t kSkipChannels = 3;
/// Groups of the norm in the attention of Skip blocks. The number does not depend on norm_num_groups.
constexpr int64_t kSkipAttentionGroups = 32;
constexpr double kSkipScale = std::numbers::sqrt2;

int64_t quarter_groups(int64_t channels) { return std::min<int64_t>(channels / 4, 32); }

ResnetBlock2DOptions skip_resnet_options(const UNetBlockOptions& options, int64_t in_channels,
                                         int64_t groups) {
  auto resnet = unet_resnet_options(options, in_channels, options.out_channels);
  resnet.groups = groups;
  resnet.groups_out = quarter_groups(options.out_channels);
  resnet.output_scale_factor = kSkipScale;
  return resnet;
}

ResnetBlock2D skip_resampling_resnet(const UNetBlockOptions& options, ResnetResample resample) {
  auto resnet = skip_resnet_options(options, options.out_channels, quarter_groups(options.out_channels));
  resnet.use_in_shortcut = true;
  resnet.resample = resample;
  return ResnetBlock2D(resnet);
}

void require_same_resolution(const Tensor& skip, const Tensor& hidden) {
  require<TensorError>(
      skip.size(2) == hidden.size(2) && skip.size(3) == hidden.size(3),
      "a Skip block has hidden states {} and a skip image {}: sizes must halve without remainder, and "
      "on all levels before it there must be Skip blocks too",
      shape_string(hidden.sizes()), shape_string(skip.sizes()));
}

/// SkipDownBlock2D and AttnSkipDownBlock2D (Song et al. 2021). They also downsample a copy of the input image
/// and add it through a 1x1 convolution.
class SkipDownBlock : public UNetBlock {
 public:
  SkipDownBlock(const UNetBlockOptions& options, bool attention)
      : attentions_(std::make_shared<layers::ModuleVectorImpl<Attention>>()),
        resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlock2D>>()) {
    for (int64_t i = 0; i < options.num_layers; ++i) {
      const int64_t in_channels = i == 0 ? options.in_channels : options.out_channels;
      resnets_->push_back(
          ResnetBlock2D(skip_resnet_options(options, in_channels, quarter_groups(in_channels))));
      if (attention) {
        attentions_->push_back(unet_self_attention(options.out_channels, options.attention_head_dim,
                                                   kSkipAttentionGroups, options.resnet_eps, kSkipScale));
      }
    }
    if (attention) register_module("attentions", attentions_);
    register_module("resnets", resnets_);
    if (!options.add_resample) return;
    resnet_down_ = register_module("resnet_down", skip_resampling_resnet(options, ResnetResample::kFirDown));
    skip_conv_ = register_module("skip_conv", layers::Conv2d(kSkipChannels, options.out_channels,
                                                             layers::Conv2dOptions{.kernel_size = 1}));
  }

  void run(UNetState& state) const override {
    auto hidden = state.hidden_states;
    for (std::size_t i = 0; i < resnets_->size(); ++i) {
      hidden = run_resnet((*resnets_)[i], hidden, state.temb);
      if (!attentions_->empty())
        hidden = order_for_dropout((*attentions_)[i]->forward(hidden), *(*resnets_)[i]);
      state.residuals.push_back(hidden);
    }
    if (resnet_down_) {
      hidden = resnet_down_->forward(hidden, state.temb);
      state.skip_sample = fir_downsample_2d(state.skip_sample);
      require_same_resolution(state.skip_sample, hidden);
      hidden = skip_conv_->forward(state.skip_sample) + hidden;
      state.residuals.push_back(hidden);
    }
    state.hidden_states = hidden;
  }

 private:
  layers::ModuleVector<Attention> attentions_;
  layers::ModuleVector<ResnetBlock2D> resnets_;
  ResnetBlock2D resnet_down_{nullptr};
  layers::Conv2d skip_conv_{nullptr};
};

/// SkipUpBlock2D and AttnSkipUpBlock2D. Each level upsamples an image and adds its output to it.
class SkipUpBlock : public UNetBlock {
 public:
  SkipUpBlock(const UNetBlockOptions& options, bool attention)
      : attentions_(std::make_shared<layers::ModuleVectorImpl<Attention>>()),
        resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlock2D>>()) {
    for (int64_t i = 0; i < options.num_layers; ++i) {
      const int64_t skip_channels = i == options.num_layers - 1 ? options.in_channels : options.out_channels;
      const int64_t hidden_channels = i == 0 ? options.prev_output_channel : options.out_channels;
      // As in Python, AttnSkipUpBlock2D divides only the second term by four.
      const int64_t groups = attention ? std::min<int64_t>(hidden_channels + skip_channels / 4, 32)
                                       : quarter_groups(hidden_channels + skip_channels);
      resnets_->push_back(
          ResnetBlock2D(skip_resnet_options(options, hidden_channels + skip_channels, groups)));
    }
    if (attention) {
      attentions_->push_back(unet_self_attention(options.out_channels, options.attention_head_dim,
                                                 kSkipAttentionGroups, options.resnet_eps, kSkipScale));
      register_module("attentions", attentions_);
    }
    register_module("resnets", resnets_);
    if (!options.add_resample) return;
    resnet_up_ = register_module("resnet_up", skip_resampling_resnet(options, ResnetResample::kFirUp));
    skip_conv_ =
        register_module("skip_conv", layers::Conv2d(options.out_channels, kSkipChannels,
                                                    layers::Conv2dOptions{.kernel_size = 3, .padding = 1}));
    skip_norm_ = register_module("skip_norm", layers::GroupNorm(quarter_groups(options.out_channels),
                                                                options.out_channels, options.resnet_eps));
  }

  void run(UNetState& state) const override {
    for (const auto& resnet : *resnets_) {
      append_residual(state, take_residual(state));
      state.hidden_states = run_resnet(resnet, state.hidden_states, state.temb);
    }
    if (!attentions_->empty())
      state.hidden_states =
          order_for_dropout((*attentions_)[0]->forward(state.hidden_states), *(*resnets_)[0]);
    if (state.skip_sample.defined()) state.skip_sample = fir_upsample_2d(state.skip_sample);
    if (!resnet_up_) return;
    const auto skip = skip_conv_->forward(skip_norm_->forward_silu(state.hidden_states));
    if (state.skip_sample.defined()) require_same_resolution(state.skip_sample, skip);
    state.skip_sample = state.skip_sample.defined() ? state.skip_sample + skip : skip;
    state.hidden_states = resnet_up_->forward(state.hidden_states, state.temb);
  }

 private:
  layers::ModuleVector<Attention> attentions_;
  layers::ModuleVector<ResnetBlock2D> resnets_;
  ResnetBlock2D resnet_up_{nullptr};
  layers::Conv2d skip_conv_{nullptr};
  layers::GroupNorm skip_norm_{nullptr};
};

}  // namespace

UNetBlockPointer make_skip_down_block(const UNetBlockOptions& options, bool attention) {
  return std::make_shared<SkipDownBlock>(options, attention);
}

UNetBlockPointer make_skip_up_block(const UNetBlockOptions& options, bool attention) {
  return std::make_shared<SkipUpBlock>(options, attention);
}

}  // namespace internal
}  // namespace diffusers
