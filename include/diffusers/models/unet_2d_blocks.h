#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/one_or_many.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/attention_layer.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/resnet.h>

namespace diffusers {

/// How the attention blocks of a UNet halve the resolution.
enum class DownsampleType { kConv, kResnet };
template <>
struct EnumNames<DownsampleType> {
  static constexpr std::string_view kKey = "downsample_type";
  static constexpr std::array<std::pair<DownsampleType, std::string_view>, 2> kTable{
      {{DownsampleType::kConv, "conv"}, {DownsampleType::kResnet, "resnet"}}};
};

/// How the attention blocks of a UNet double the resolution.
enum class UpsampleType { kConv, kResnet };
template <>
struct EnumNames<UpsampleType> {
  static constexpr std::string_view kKey = "upsample_type";
  static constexpr std::array<std::pair<UpsampleType, std::string_view>, 2> kTable{
      {{UpsampleType::kConv, "conv"}, {UpsampleType::kResnet, "resnet"}}};
};

/// Factors of FreeU (Si et al. 2023): of the hidden states, b1 and b2, and of the low frequencies of the
/// residuals, s1 and s2, in the first and the second up block.
struct FreeU {
  double s1 = 1;
  double s2 = 1;
  double b1 = 1;
  double b2 = 1;
};

/// What flows through a UNet: each block reads and changes it.
struct UNetState {
  Tensor hidden_states;           ///< `[B, C, H, W]`
  Tensor temb;                    ///< `[B, temb_channels]`
  std::vector<Tensor> residuals;  ///< left by the down blocks, taken from the end by the up blocks
  Tensor skip_sample;  ///< the image that the Skip blocks carry along, undefined where there is none
  Tensor encoder_hidden_states = {};   ///< `[B, S, D]`, what the CrossAttn blocks attend to
  Tensor attention_mask = {};          ///< `[B, 1, 1, L]`, added to the scores of attention to the image
  Tensor encoder_attention_mask = {};  ///< `[B, 1, 1, S]`, added to the scores of attention to the encoder
  Tensor additional_residual = {};     ///< of an adapter, for the down block that runs next
  std::optional<FreeU> freeu = std::nullopt;  ///< for UpBlock2D and CrossAttnUpBlock2D
  std::size_t up_block_index = 0;
  bool forward_upsample_size = false;  ///< sizes do not halve evenly: upsample to that of the next residual
};

/// Where a down block adds the residual of a T2I-Adapter: to its output, before its downsampling, or nowhere.
enum class AdapterPlace { kAfter, kInside, kNone };

/// A stage of a UNet. Parameters are named as in the Python class that `type` of the factories below names.
class UNetBlock : public torch::nn::Module {
 public:
  virtual void run(UNetState& state) const = 0;
  /// Runs each residual and transformer block again in the backward instead of keeping its intermediate
  /// results.
  virtual void set_gradient_checkpointing(bool enabled) { gradient_checkpointing_ = enabled; }
  virtual AdapterPlace adapter_place() const { return AdapterPlace::kAfter; }

 protected:
  Tensor run_resnet(const ResnetPointer& resnet, const Tensor& hidden_states, const Tensor& temb) const;
  Tensor run_resnet(const ResnetBlock2D& resnet, const Tensor& hidden_states, const Tensor& temb) const;
  Tensor run_resnet(const ResnetBlockCondNorm2D& resnet, const Tensor& hidden_states,
                    const Tensor& temb) const;
  bool gradient_checkpointing_ = false;
};
using UNetBlockPointer = std::shared_ptr<UNetBlock>;

/// The arguments of `get_down_block` and `get_up_block`.
struct UNetBlockOptions {
  int64_t num_layers = 1;
  int64_t in_channels = 0;
  int64_t out_channels = 0;
  int64_t prev_output_channel = 0;  ///< of up blocks: channels that come from the block below
  int64_t temb_channels = 0;
  bool add_resample = true;  ///< false in the block of the lowest (down) or full (up) resolution
  double resnet_eps = 1e-6;
  layers::Activation resnet_act_fn = layers::Activation::kSilu;
  std::optional<int64_t> resnet_groups = 32;
  int64_t attention_head_dim = 8;
  int64_t downsample_padding = 1;
  DownsampleType downsample_type = DownsampleType::kConv;
  UpsampleType upsample_type = UpsampleType::kConv;
  ResnetTimeScaleShift resnet_time_scale_shift = ResnetTimeScaleShift::kDefault;
  bool resnet_skip_time_act = false;
  double resnet_out_scale_factor = 1.0;
  double dropout = 0.0;
  std::optional<int64_t> cross_attention_dim = std::nullopt;  ///< of a UNet with an encoder
  int64_t num_attention_heads = 1;                            ///< of the transformers in CrossAttn blocks
  OneOrMany<int64_t> transformer_layers_per_block = 1;        ///< one for each layer, or one for all
  bool dual_cross_attention = false;
  bool use_linear_projection = false;
  bool only_cross_attention = false;
  CrossAttentionNorm cross_attention_norm = CrossAttentionNorm::kNone;
};

/// DownBlock2D, ResnetDownsampleBlock2D, AttnDownBlock2D, SkipDownBlock2D, AttnSkipDownBlock2D or
/// KDownBlock2D; with a cross_attention_dim also CrossAttnDownBlock2D, SimpleCrossAttnDownBlock2D and
/// KCrossAttnDownBlock2D. A prefix "UNetRes" is dropped, as in Python.
/// @throws ConfigError for a type that does not exist, or cannot work without an encoder's hidden states,
/// naming those
///   that can; and for channels, groups or head sizes that do not fit
UNetBlockPointer get_down_block(std::string_view type, const UNetBlockOptions& options);

/// UpBlock2D, ResnetUpsampleBlock2D, AttnUpBlock2D, SkipUpBlock2D, AttnSkipUpBlock2D or KUpBlock2D; with a
/// cross_attention_dim also CrossAttnUpBlock2D, SimpleCrossAttnUpBlock2D and KCrossAttnUpBlock2D.
/// @throws ConfigError as get_down_block
UNetBlockPointer get_up_block(std::string_view type, const UNetBlockOptions& options);

/// UNetMidBlock2D (here one residual block), UNetMidBlock2DCrossAttn or UNetMidBlock2DSimpleCrossAttn,
/// between `in_channels` and as many; resnet_out_scale_factor is that of the mid block.
/// @throws ConfigError as get_down_block
UNetBlockPointer get_mid_block(std::string_view type, const UNetBlockOptions& options);

struct UNetMidBlock2DOptions {
  int64_t in_channels = 0;
  std::optional<int64_t> temb_channels = std::nullopt;
  double dropout = 0.0;
  int64_t num_layers = 1;
  double resnet_eps = 1e-6;
  ResnetTimeScaleShift resnet_time_scale_shift = ResnetTimeScaleShift::kDefault;
  layers::Activation resnet_act_fn = layers::Activation::kSilu;
  std::optional<int64_t> resnet_groups = 32;  ///< nullopt: min(in_channels / 4, 32)
  std::optional<int64_t> attn_groups = std::nullopt;
  bool add_attention = true;
  int64_t attention_head_dim = 1;
  double output_scale_factor = 1.0;
  /// All norms are spatial norms, and take latents of so many channels as temb (Python:
  /// resnet_time_scale_shift = "spatial").
  std::optional<int64_t> spatial_norm_dim = std::nullopt;
};

/// The block between the down and the up blocks: a residual block, then attention and a residual block
/// num_layers times.
class UNetMidBlock2DImpl : public UNetBlock {
 public:
  explicit UNetMidBlock2DImpl(const UNetMidBlock2DOptions& options);
  void run(UNetState& state) const override;
  /// @param temb `[B, temb_channels]`, or `[B, spatial_norm_dim, h, w]`
  Tensor forward(const Tensor& hidden_states, const Tensor& temb = {}) const;

 private:
  layers::ModuleVector<Attention> attentions_;
  layers::ModuleVector<ResnetPointer> resnets_;
};
TORCH_MODULE(UNetMidBlock2D);

}  // namespace diffusers
