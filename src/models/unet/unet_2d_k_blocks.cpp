#include <memory>

#include "core/require.h"
#include "models/unet/unet_2d_blocks.h"

namespace diffusers {
inline namespace internal {

ResnetBlockCondNorm2D k_resnet(const UNetBlockOptions& options, int64_t in_channels, int64_t out_channels,
                               int64_t norm_channels_out, std::optional<int64_t> conv_2d_out_channels) {
  return ResnetBlockCondNorm2D(
      ResnetBlockCondNorm2DOptions{.in_channels = in_channels,
                                   .out_channels = out_channels,
                                   .temb_channels = options.temb_channels,
                                   .dropout = options.dropout,
                                   .groups = in_channels / kKBlockGroupSize,
                                   .groups_out = norm_channels_out / kKBlockGroupSize,
                                   .eps = options.resnet_eps,
                                   .non_linearity = options.resnet_act_fn,
                                   .conv_shortcut_bias = false,
                                   .conv_2d_out_channels = conv_2d_out_channels});
}

namespace {

/// KDownBlock2D, a block of K-diffusion's UNets, whose norms take the time embedding. It leaves no residual
/// after its downsampling.
class KDownBlock : public UNetBlock {
 public:
  explicit KDownBlock(const UNetBlockOptions& options)
      : resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlockCondNorm2D>>()),
        downsample_(options.add_resample) {
    for (int64_t i = 0; i < options.num_layers; ++i) {
      resnets_->push_back(k_resnet(options, i == 0 ? options.in_channels : options.out_channels,
                                   options.out_channels, options.out_channels));
    }
    register_module("resnets", resnets_);
  }

  void run(UNetState& state) const override {
    for (const auto& resnet : *resnets_) {
      state.hidden_states = run_resnet(resnet, state.hidden_states, state.temb);
      state.residuals.push_back(state.hidden_states);
    }
    if (downsample_) state.hidden_states = k_downsample_2d(state.hidden_states);
  }

 private:
  layers::ModuleVector<ResnetBlockCondNorm2D> resnets_;
  bool downsample_;
};

/// KUpBlock2D. It has one residual block fewer than the other blocks of its model and uses one residual for
/// all of them.
class KUpBlock : public UNetBlock {
 public:
  explicit KUpBlock(const UNetBlockOptions& options)
      : resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetBlockCondNorm2D>>()),
        upsample_(options.add_resample) {
    const int64_t count = options.num_layers - 1;
    require<ConfigError>(count > 0, "layers_per_block leaves a KUpBlock2D without layers");
    for (int64_t i = 0; i < count; ++i) {
      resnets_->push_back(k_resnet(options, i == 0 ? 2 * options.out_channels : options.out_channels,
                                   i == count - 1 ? options.in_channels : options.out_channels,
                                   options.out_channels));
    }
    register_module("resnets", resnets_);
  }

  void run(UNetState& state) const override {
    const auto residual = take_residual(state);
    for (std::size_t i = 1; i < resnets_->size(); ++i) take_residual(state);
    if (residual.defined()) append_residual(state, residual);
    for (const auto& resnet : *resnets_)
      state.hidden_states = run_resnet(resnet, state.hidden_states, state.temb);
    if (upsample_) state.hidden_states = k_upsample_2d(state.hidden_states);
  }

 private:
  layers::ModuleVector<ResnetBlockCondNorm2D> resnets_;
  bool upsample_;
};

}  // namespace

UNetBlockPointer make_k_down_block(const UNetBlockOptions& options) {
  return std::make_shared<KDownBlock>(options);
}

UNetBlockPointer make_k_up_block(const UNetBlockOptions& options) {
  return std::make_shared<KUpBlock>(options);
}

}  // namespace internal
}  // namespace diffusers
