#include <memory>

#include "models/layers/module_list.h"
#include "models/unet/dropout_layout.h"
#include "models/unet/unet_2d_blocks.h"

namespace diffusers {
inline namespace internal {
namespace {

/// @param is_resnet_block true for ResnetDownsampleBlock2D and ResnetUpsampleBlock2D, the only blocks with
///   these options
ResnetBlock2DOptions plain_resnet_options(const UNetBlockOptions& options, int64_t in_channels,
                                          bool is_resnet_block) {
  auto resnet = unet_resnet_options(options, in_channels, options.out_channels);
  if (is_resnet_block) {
    resnet.skip_time_act = options.resnet_skip_time_act;
    resnet.output_scale_factor = options.resnet_out_scale_factor;
  }
  return resnet;
}

/// DownBlock2D, ResnetDownsampleBlock2D and AttnDownBlock2D: residual blocks, each with optional attention,
/// then a convolution or a residual block that halves the resolution.
class PlainDownBlock : public UNetBlock {
 public:
  PlainDownBlock(const UNetBlockOptions& options, DownBlockKind kind)
      : attentions_(std::make_shared<layers::ModuleVectorImpl<Attention>>()),
        resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlock2D>>()) {
    const int64_t groups = required_groups(options);
    const bool attention = kind == DownBlockKind::kAttention;
    const auto resnet_options = [&](int64_t in_channels) {
      return plain_resnet_options(options, in_channels, kind == DownBlockKind::kResnet);
    };
    for (int64_t i = 0; i < options.num_layers; ++i) {
      resnets_->push_back(ResnetBlock2D(resnet_options(i == 0 ? options.in_channels : options.out_channels)));
      if (attention) {
        attentions_->push_back(unet_self_attention(options.out_channels, options.attention_head_dim, groups,
                                                   options.resnet_eps, /*output_scale_factor=*/1.0));
      }
    }
    if (attention) register_module("attentions", attentions_);
    register_module("resnets", resnets_);
    if (!options.add_resample) return;

    if (kind == DownBlockKind::kResnet || (attention && options.downsample_type == DownsampleType::kResnet)) {
      auto resnet = resnet_options(options.out_channels);
      resnet.resample = ResnetResample::kDown;
      resnet_down_ = ResnetBlock2D(resnet);
      register_list_of_one(*this, "downsamplers", resnet_down_);
    } else {
      conv_down_ = Downsample2D(options.out_channels,
                                Downsample2DOptions{.use_conv = true, .padding = options.downsample_padding});
      register_list_of_one(*this, "downsamplers", conv_down_);
    }
  }

  void run(UNetState& state) const override {
    auto hidden = state.hidden_states;
    for (std::size_t i = 0; i < resnets_->size(); ++i) {
      hidden = run_resnet((*resnets_)[i], hidden, state.temb);
      if (!attentions_->empty())
        hidden = order_for_dropout((*attentions_)[i]->forward(hidden), *(*resnets_)[i]);
      state.residuals.push_back(hidden);
    }
    if (resnet_down_) hidden = resnet_down_->forward(hidden, state.temb);
    if (conv_down_) hidden = conv_down_->forward(hidden);
    if (resnet_down_ || conv_down_) state.residuals.push_back(hidden);
    state.hidden_states = hidden;
  }

 private:
  layers::ModuleVector<Attention> attentions_;
  layers::ModuleVector<ResnetBlock2D> resnets_;
  ResnetBlock2D resnet_down_{nullptr};
  Downsample2D conv_down_{nullptr};
};

/// UpBlock2D, ResnetUpsampleBlock2D and AttnUpBlock2D.
class PlainUpBlock : public UNetBlock {
 public:
  PlainUpBlock(const UNetBlockOptions& options, UpBlockKind kind)
      : plain_(kind == UpBlockKind::kPlain),
        attentions_(std::make_shared<layers::ModuleVectorImpl<Attention>>()),
        resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlock2D>>()) {
    const int64_t groups = required_groups(options);
    const bool attention = kind == UpBlockKind::kAttention;
    const auto resnet_options = [&](int64_t in_channels) {
      return plain_resnet_options(options, in_channels, kind == UpBlockKind::kResnet);
    };
    for (int64_t i = 0; i < options.num_layers; ++i) {
      resnets_->push_back(ResnetBlock2D(resnet_options(up_resnet_in_channels(options, i))));
      if (attention) {
        attentions_->push_back(unet_self_attention(options.out_channels, options.attention_head_dim, groups,
                                                   options.resnet_eps, /*output_scale_factor=*/1.0));
      }
    }
    if (attention) register_module("attentions", attentions_);
    register_module("resnets", resnets_);
    if (!options.add_resample) return;

    if (kind == UpBlockKind::kResnet || (attention && options.upsample_type == UpsampleType::kResnet)) {
      auto resnet = resnet_options(options.out_channels);
      resnet.resample = ResnetResample::kUp;
      resnet_up_ = ResnetBlock2D(resnet);
      register_list_of_one(*this, "upsamplers", resnet_up_);
    } else {
      conv_up_ = Upsample2D(options.out_channels, Upsample2DOptions{.use_conv = true});
      register_list_of_one(*this, "upsamplers", conv_up_);
    }
  }

  void run(UNetState& state) const override {
    for (std::size_t i = 0; i < resnets_->size(); ++i) {
      const auto residual = take_residual(state);
      append_residual(state, plain_ ? apply_freeu(state, residual) : residual);
      state.hidden_states = run_resnet((*resnets_)[i], state.hidden_states, state.temb);
      if (!attentions_->empty())
        state.hidden_states =
            order_for_dropout((*attentions_)[i]->forward(state.hidden_states), *(*resnets_)[i]);
    }
    if (resnet_up_) state.hidden_states = resnet_up_->forward(state.hidden_states, state.temb);
    if (conv_up_) {
      state.hidden_states =
          conv_up_->forward(state.hidden_states, plain_ ? forwarded_size(state) : std::nullopt);
    }
  }

 private:
  bool plain_;  ///< UpBlock2D; as in Python, only this type supports FreeU and a size to upsample to
  layers::ModuleVector<Attention> attentions_;
  layers::ModuleVector<ResnetBlock2D> resnets_;
  ResnetBlock2D resnet_up_{nullptr};
  Upsample2D conv_up_{nullptr};
};

}  // namespace

UNetBlockPointer make_down_block(const UNetBlockOptions& options, DownBlockKind kind) {
  return std::make_shared<PlainDownBlock>(options, kind);
}

UNetBlockPointer make_up_block(const UNetBlockOptions& options, UpBlockKind kind) {
  return std::make_shared<PlainUpBlock>(options, kind);
}

}  // namespace internal
}  // namespace diffusers
