#include <memory>
#include <optional>
#include <utility>

#include <diffusers/models/attention_layer.h>
#include <diffusers/models/resnet.h>
#include <diffusers/models/vae_blocks.h>

#include "core/require.h"
#include "models/layers/module_list.h"
#include "models/unet/unet_2d_blocks.h"

namespace diffusers {
namespace {

/// The residual blocks of a stage, each with optional attention.
class VaeLayers {
 public:
  VaeLayers(const VaeBlockOptions& options, bool attention)
      : attentions_(std::make_shared<layers::ModuleVectorImpl<Attention>>()),
        resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetPointer>>()) {
    const auto attention_groups =
        options.spatial_norm_dim ? std::nullopt : std::optional<int64_t>(options.resnet_groups);
    for (int64_t i = 0; i < options.num_layers; ++i) {
      resnets_->push_back(make_resnet(options, i == 0 ? options.in_channels : options.out_channels));
      if (attention) {
        attentions_->push_back(unet_self_attention(options.out_channels, options.attention_head_dim,
                                                   attention_groups, options.resnet_eps,
                                                   /*output_scale_factor=*/1.0, options.spatial_norm_dim));
      }
    }
  }

  const layers::ModuleVector<Attention>& attentions() const { return attentions_; }
  const layers::ModuleVector<ResnetPointer>& resnets() const { return resnets_; }

  Tensor forward(Tensor hidden, const Tensor& latent_embeds) const {
    for (std::size_t i = 0; i < resnets_->size(); ++i) {
      hidden = (*resnets_)[i]->forward(hidden, latent_embeds);
      if (!attentions_->empty()) hidden = (*attentions_)[i]->forward(hidden, {}, {}, latent_embeds);
    }
    return hidden;
  }

 private:
  static ResnetPointer make_resnet(const VaeBlockOptions& options, int64_t in_channels) {
    if (options.spatial_norm_dim) {
      return ResnetBlockCondNorm2D(
                 ResnetBlockCondNorm2DOptions{.in_channels = in_channels,
                                              .out_channels = options.out_channels,
                                              .temb_channels = *options.spatial_norm_dim,
                                              .eps = options.resnet_eps,
                                              .non_linearity = options.resnet_act_fn,
                                              .time_embedding_norm = ResnetConditionalNorm::kSpatial})
          .ptr();
    }
    return ResnetBlock2D(ResnetBlock2DOptions{.in_channels = in_channels,
                                              .out_channels = options.out_channels,
                                              .temb_channels = std::nullopt,
                                              .groups = options.resnet_groups,
                                              .eps = options.resnet_eps,
                                              .non_linearity = options.resnet_act_fn})
        .ptr();
  }

  layers::ModuleVector<Attention> attentions_;
  layers::ModuleVector<ResnetPointer> resnets_;
};

/// DownEncoderBlock2D and AttnDownEncoderBlock2D.
class EncoderBlock : public VaeBlock {
 public:
  EncoderBlock(const VaeBlockOptions& options, bool attention) : layers_(options, attention) {
    if (attention) register_module("attentions", layers_.attentions());
    register_module("resnets", layers_.resnets());
    if (!options.add_resample) return;
    // The padding is at the bottom and on the right only.
    downsample_ = Downsample2D(options.out_channels, Downsample2DOptions{.use_conv = true, .padding = 0});
    register_list_of_one(*this, "downsamplers", downsample_);
  }

  Tensor forward(Tensor hidden_states, const Tensor& latent_embeds) const override {
    auto hidden = layers_.forward(std::move(hidden_states), latent_embeds);
    if (!downsample_) return hidden;
    require<TensorError>(
        hidden.size(2) >= 2 && hidden.size(3) >= 2,
        "an image, or a tile of it, is too small for the encoder: {} cannot be halved once more",
        shape_string(hidden.sizes()));
    return downsample_->forward(hidden);
  }

 private:
  VaeLayers layers_;
  Downsample2D downsample_{nullptr};
};

/// UpDecoderBlock2D and AttnUpDecoderBlock2D.
class DecoderBlock : public VaeBlock {
 public:
  DecoderBlock(const VaeBlockOptions& options, bool attention) : layers_(options, attention) {
    if (attention) register_module("attentions", layers_.attentions());
    register_module("resnets", layers_.resnets());
    if (!options.add_resample) return;
    upsample_ = Upsample2D(options.out_channels, Upsample2DOptions{.use_conv = true});
    register_list_of_one(*this, "upsamplers", upsample_);
  }

  Tensor forward(Tensor hidden_states, const Tensor& latent_embeds) const override {
    const auto hidden = layers_.forward(std::move(hidden_states), latent_embeds);
    return upsample_ ? upsample_->forward(hidden) : hidden;
  }

 private:
  VaeLayers layers_;
  Upsample2D upsample_{nullptr};
};

}  // namespace

VaeBlockPointer get_encoder_block(std::string_view type, const VaeBlockOptions& options) {
  const auto name = without_unet_res_prefix(type);
  const bool attention = name == "AttnDownEncoderBlock2D";
  require<ConfigError>(attention || name == "DownEncoderBlock2D",
                       "down block type \"{}\" is none of an autoencoder's; it must be one of: "
                       "DownEncoderBlock2D, AttnDownEncoderBlock2D",
                       type);
  return std::make_shared<EncoderBlock>(options, attention);
}

VaeBlockPointer get_decoder_block(std::string_view type, const VaeBlockOptions& options) {
  const auto name = without_unet_res_prefix(type);
  const bool attention = name == "AttnUpDecoderBlock2D";
  require<ConfigError>(
      attention || name == "UpDecoderBlock2D",
      "up block type \"{}\" is none of an autoencoder's; it must be one of: UpDecoderBlock2D, "
      "AttnUpDecoderBlock2D",
      type);
  return std::make_shared<DecoderBlock>(options, attention);
}

}  // namespace diffusers
