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

/// Downsampling of a UNet's attention blocks.
enum class DownsampleType {
  kConv,   ///< strided convolution
  kResnet  ///< residual block
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<DownsampleType> {
  static constexpr std::string_view kKey = "downsample_type";
  static constexpr std::array<std::pair<DownsampleType, std::string_view>, 2> kTable{
      {{DownsampleType::kConv, "conv"}, {DownsampleType::kResnet, "resnet"}}};
};

/// Upsampling of a UNet's attention blocks.
enum class UpsampleType {
  kConv,   ///< interpolation and convolution
  kResnet  ///< residual block
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<UpsampleType> {
  static constexpr std::string_view kKey = "upsample_type";
  static constexpr std::array<std::pair<UpsampleType, std::string_view>, 2> kTable{
      {{UpsampleType::kConv, "conv"}, {UpsampleType::kResnet, "resnet"}}};
};

/// Factors of FreeU (Si et al. 2023) in the first and the second up block.
struct FreeU {
  double s1 = 1;  ///< factor of the residuals' low frequencies in the first up block
  double s2 = 1;  ///< factor of the residuals' low frequencies in the second up block
  double b1 = 1;  ///< factor of the hidden states in the first up block
  double b2 = 1;  ///< factor of the hidden states in the second up block
};

/// The tensors that pass through the blocks of a UNet. Each block reads and changes them.
struct UNetState {
  Tensor hidden_states;  ///< `[B, C, H, W]`
  Tensor temb;           ///< time embedding `[B, temb_channels]`
  std::vector<Tensor>
      residuals;       ///< added at the end by the down blocks, removed from the end by the up blocks
  Tensor skip_sample;  ///< image branch of the Skip blocks; undefined without them
  Tensor encoder_hidden_states = {};   ///< `[B, S, D]`, for the CrossAttn blocks
  Tensor attention_mask = {};          ///< `[B, 1, 1, L]`, added to the scores of self-attention
  Tensor encoder_attention_mask = {};  ///< `[B, 1, 1, S]`, added to the scores of attention to the encoder
  Tensor additional_residual = {};     ///< residual of a T2I-Adapter for the next down block
  std::optional<FreeU> freeu = std::nullopt;  ///< for UpBlock2D and CrossAttnUpBlock2D; nullopt: off
  std::size_t up_block_index = 0;             ///< number of up blocks that have run
  /// Upsamples to the size of the next residual. Needed if height or width is not a multiple of the total
  /// downsampling factor.
  bool forward_upsample_size = false;
};

/// Place in a down block where the residual of a T2I-Adapter is added.
enum class AdapterPlace {
  kAfter,   ///< after the block
  kInside,  ///< before the block's downsampling
  kNone     ///< nowhere
};

/// A down, mid or up block of a UNet. Parameters have the state-dict names of the Python class of that type.
class UNetBlock : public torch::nn::Module {
 public:
  /// Applies the block.
  /// @param state tensors that the block reads and replaces
  virtual void run(UNetState& state) const = 0;
  /// Sets gradient checkpointing.
  /// @param enabled recomputes each residual and transformer block in the backward pass instead of keeping
  ///   its intermediate results
  virtual void set_gradient_checkpointing(bool enabled) { gradient_checkpointing_ = enabled; }
  /// @return the place of a T2I-Adapter's residual
  virtual AdapterPlace adapter_place() const { return AdapterPlace::kAfter; }

 protected:
  /// Applies a residual block, with gradient checkpointing if it is set.
  /// @param resnet the residual block
  /// @param hidden_states `[B, C, H, W]`
  /// @param temb time embedding `[B, temb_channels]`
  /// @return the block's result
  Tensor run_resnet(const ResnetPointer& resnet, const Tensor& hidden_states, const Tensor& temb) const;
  /// @copydoc run_resnet(const ResnetPointer&, const Tensor&, const Tensor&) const
  Tensor run_resnet(const ResnetBlock2D& resnet, const Tensor& hidden_states, const Tensor& temb) const;
  /// @copydoc run_resnet(const ResnetPointer&, const Tensor&, const Tensor&) const
  Tensor run_resnet(const ResnetBlockCondNorm2D& resnet, const Tensor& hidden_states,
                    const Tensor& temb) const;
  bool gradient_checkpointing_ = false;  ///< state of `set_gradient_checkpointing`
};
/// A shared pointer to a block.
using UNetBlockPointer = std::shared_ptr<UNetBlock>;

/// The arguments of `get_down_block`, `get_up_block` and `get_mid_block`.
struct UNetBlockOptions {
  int64_t num_layers = 1;           ///< residual blocks
  int64_t in_channels = 0;          ///< channels of the input
  int64_t out_channels = 0;         ///< channels of the result
  int64_t prev_output_channel = 0;  ///< channels of the previous block; up blocks only
  int64_t temb_channels = 0;        ///< width of the time embedding
  bool add_resample = true;         ///< false in the block at the lowest (down) or full (up) resolution
  double resnet_eps = 1e-6;         ///< epsilon of the norms
  layers::Activation resnet_act_fn = layers::Activation::kSilu;  ///< activation of the residual blocks
  std::optional<int64_t> resnet_groups = 32;  ///< groups of the norms; nullopt only for K blocks
  int64_t attention_head_dim = 8;             ///< channels of a head
  int64_t downsample_padding = 1;  ///< padding of convolutions that downsample; 0: below and right only
  DownsampleType downsample_type = DownsampleType::kConv;  ///< downsampling of AttnDownBlock2D
  UpsampleType upsample_type = UpsampleType::kConv;        ///< upsampling of AttnUpBlock2D
  /// Use of the time embedding.
  ResnetTimeScaleShift resnet_time_scale_shift = ResnetTimeScaleShift::kDefault;
  bool resnet_skip_time_act = false;     ///< omits the activation of the time embedding
  double resnet_out_scale_factor = 1.0;  ///< divisor of the outputs
  double dropout = 0.0;                  ///< dropout probability in residual blocks
  /// Width of the encoder's tokens; nullopt: none.
  std::optional<int64_t> cross_attention_dim = std::nullopt;
  int64_t num_attention_heads = 1;  ///< heads of the transformers in CrossAttn blocks
  /// Transformer blocks in each layer: one number for all layers or one each.
  OneOrMany<int64_t> transformer_layers_per_block = 1;
  bool dual_cross_attention = false;   ///< DualTransformer2DModel in CrossAttn blocks
  bool use_linear_projection = false;  ///< linear layers at both ends of Transformer2DModel
  bool only_cross_attention = false;   ///< leaves out self-attention
  /// Norm of encoder_hidden_states in SimpleCrossAttn blocks.
  CrossAttentionNorm cross_attention_norm = CrossAttentionNorm::kNone;
};

/// Makes a down block.
/// @param type DownBlock2D, ResnetDownsampleBlock2D, AttnDownBlock2D, SkipDownBlock2D, AttnSkipDownBlock2D or
///   KDownBlock2D; with a cross_attention_dim also CrossAttnDownBlock2D, SimpleCrossAttnDownBlock2D and
///   KCrossAttnDownBlock2D. A prefix "UNetRes" is dropped, as in Python.
/// @param options the arguments of the block
/// @return the block
/// @throws ConfigError for an unknown type, listing the known types; and for channels, groups or head sizes
///   that do not fit
UNetBlockPointer get_down_block(std::string_view type, const UNetBlockOptions& options);

/// Makes an up block.
/// @param type UpBlock2D, ResnetUpsampleBlock2D, AttnUpBlock2D, SkipUpBlock2D, AttnSkipUpBlock2D or
///   KUpBlock2D; with a cross_attention_dim also CrossAttnUpBlock2D, SimpleCrossAttnUpBlock2D and
///   KCrossAttnUpBlock2D
/// @param options the arguments of the block
/// @return the block
/// @throws ConfigError as `get_down_block`
UNetBlockPointer get_up_block(std::string_view type, const UNetBlockOptions& options);

/// Makes a mid block with `in_channels` at both ends.
/// @param type UNetMidBlock2D (with one residual block), UNetMidBlock2DCrossAttn or
///   UNetMidBlock2DSimpleCrossAttn
/// @param options the arguments of the block; resnet_out_scale_factor is mid_block_scale_factor
/// @return the block
/// @throws ConfigError as `get_down_block`
UNetBlockPointer get_mid_block(std::string_view type, const UNetBlockOptions& options);

/// The arguments of Python's `UNetMidBlock2D(...)`.
struct UNetMidBlock2DOptions {
  int64_t in_channels = 0;                              ///< channels at both ends
  std::optional<int64_t> temb_channels = std::nullopt;  ///< width of the time embedding; nullopt: none
  double dropout = 0.0;                                 ///< dropout probability in residual blocks
  int64_t num_layers = 1;                               ///< pairs of attention and residual block
  double resnet_eps = 1e-6;                             ///< epsilon of the norms
  /// Use of the time embedding.
  ResnetTimeScaleShift resnet_time_scale_shift = ResnetTimeScaleShift::kDefault;
  layers::Activation resnet_act_fn = layers::Activation::kSilu;  ///< activation of the residual blocks
  std::optional<int64_t> resnet_groups = 32;  ///< groups of the norms; nullopt: min(in_channels / 4, 32)
  /// Groups of the attention's norm; default: resnet_groups.
  std::optional<int64_t> attn_groups = std::nullopt;
  bool add_attention = true;         ///< false leaves out the attention
  int64_t attention_head_dim = 1;    ///< channels of a head
  double output_scale_factor = 1.0;  ///< divisor of the outputs
  /// Channels of the latents of spatial norms, which replace all norms; the latents are passed as temb
  /// (Python: resnet_time_scale_shift = "spatial"). nullopt: group norms.
  std::optional<int64_t> spatial_norm_dim = std::nullopt;
};

/// The block between the down and the up blocks: a residual block, then num_layers times attention and a
/// residual block (diffusers `UNetMidBlock2D`).
class UNetMidBlock2DImpl : public UNetBlock {
 public:
  /// Makes the layers.
  /// @param options the arguments of the block
  /// @throws ConfigError for channels, groups or head sizes that do not fit
  explicit UNetMidBlock2DImpl(const UNetMidBlock2DOptions& options);
  void run(UNetState& state) const override;
  /// Applies the block.
  /// @param hidden_states `[B, in_channels, H, W]`
  /// @param temb `[B, temb_channels]`, or `[B, spatial_norm_dim, h, w]`
  /// @return shape of hidden_states
  Tensor forward(const Tensor& hidden_states, const Tensor& temb = {}) const;

 private:
  layers::ModuleVector<Attention> attentions_;
  layers::ModuleVector<ResnetPointer> resnets_;
};
/// A handle of a `UNetMidBlock2DImpl`.
TORCH_MODULE(UNetMidBlock2D);

}  // namespace diffusers
