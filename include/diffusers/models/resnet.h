#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/spatial_norm.h>

namespace diffusers {

/// Use of the time embedding in a residual block.
enum class ResnetTimeScaleShift {
  kDefault,    ///< added to the hidden states
  kScaleShift  ///< scale and shift of the second norm
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<ResnetTimeScaleShift> {
  static constexpr std::string_view kKey = "resnet_time_scale_shift";
  static constexpr std::array<std::pair<ResnetTimeScaleShift, std::string_view>, 2> kTable{
      {{ResnetTimeScaleShift::kDefault, "default"}, {ResnetTimeScaleShift::kScaleShift, "scale_shift"}}};
};

/// The optional arguments of Python's `Downsample2D(...)`.
struct Downsample2DOptions {
  bool use_conv = false;  ///< downsamples by a strided convolution; false: by averaging
  /// Channels of the result; default: those of the input.
  std::optional<int64_t> out_channels = std::nullopt;
  /// Padding of the convolution. 0 pads one row below and one column on the right.
  int64_t padding = 1;
  int64_t kernel_size = 3;  ///< kernel size of the convolution
  bool bias = true;         ///< bias of the convolution
};

/// Halves height and width by a strided convolution or by averaging (diffusers `Downsample2D`).
class Downsample2DImpl : public torch::nn::Module {
 public:
  /// Makes the layer.
  /// @param channels channels of the input
  /// @param options the other arguments
  explicit Downsample2DImpl(int64_t channels, const Downsample2DOptions& options = {});
  /// Downsamples.
  /// @param hidden_states `[B, channels, H, W]`
  /// @return `[B, out_channels, H / 2, W / 2]`
  Tensor forward(const Tensor& hidden_states) const;

 private:
  Downsample2DOptions options_;
  layers::Conv2d conv_{nullptr};
};
/// A handle of a `Downsample2DImpl`.
TORCH_MODULE(Downsample2D);

/// The optional arguments of Python's `Upsample2D(...)`.
struct Upsample2DOptions {
  bool use_conv = false;  ///< applies a convolution after the interpolation
  /// Channels of the result; default: those of the input.
  std::optional<int64_t> out_channels = std::nullopt;
  int64_t kernel_size = 3;  ///< kernel size of the convolution
  int64_t padding = 1;      ///< padding of the convolution
  bool bias = true;         ///< bias of the convolution
  bool interpolate = true;  ///< doubles the size; false: keeps it
};

/// Doubles height and width by repeating each element, with an optional convolution (diffusers `Upsample2D`).
class Upsample2DImpl : public torch::nn::Module {
 public:
  /// Makes the layer.
  /// @param channels channels of the input
  /// @param options the other arguments
  explicit Upsample2DImpl(int64_t channels, const Upsample2DOptions& options = {});
  /// Upsamples.
  /// @param hidden_states `[B, channels, H, W]`
  /// @param output_size height and width of the result; default: twice those of hidden_states
  /// @return `[B, out_channels, 2 H, 2 W]`
  Tensor forward(const Tensor& hidden_states,
                 std::optional<std::array<int64_t, 2>> output_size = std::nullopt) const;

 private:
  Upsample2DOptions options_;
  layers::Conv2d conv_{nullptr};
};
/// A handle of an `Upsample2DImpl`.
TORCH_MODULE(Upsample2D);

/// Upsamples by two with the low-pass filter 1-3-3-1 (Karras et al. 2019; diffusers `upsample_2d`).
/// @param hidden_states `[B, C, H, W]`
/// @return `[B, C, 2 H, 2 W]`
Tensor fir_upsample_2d(const Tensor& hidden_states);
/// Downsamples by two with the low-pass filter 1-3-3-1 (Karras et al. 2019; diffusers `downsample_2d`).
/// @param hidden_states `[B, C, H, W]`
/// @return `[B, C, H / 2, W / 2]`
Tensor fir_downsample_2d(const Tensor& hidden_states);
/// Upsamples by two with reflected borders and the filter 1-3-3-1 (diffusers `KUpsample2D`).
/// @param hidden_states `[B, C, H, W]`
/// @return `[B, C, 2 H, 2 W]`
Tensor k_upsample_2d(const Tensor& hidden_states);
/// Downsamples by two with reflected borders and the filter 1-3-3-1 (diffusers `KDownsample2D`).
/// @param hidden_states `[B, C, H, W]`
/// @return `[B, C, H / 2, W / 2]`
Tensor k_downsample_2d(const Tensor& hidden_states);

/// Change of the resolution in a residual block.
enum class ResnetResample {
  kNone,    ///< keeps the resolution
  kUp,      ///< doubles it by repeating elements
  kDown,    ///< halves it by averaging
  kFirUp,   ///< doubles it with the filter 1-3-3-1
  kFirDown  ///< halves it with the filter 1-3-3-1
};

/// Base of the residual blocks.
class ResnetBase : public torch::nn::Module {
 public:
  /// Applies the block.
  /// @param input `[B, in_channels, H, W]`
  /// @param temb time embedding `[B, temb_channels]`
  /// @return `[B, out_channels, H, W]`, with the new height and width if the block resamples
  virtual Tensor forward(const Tensor& input, const Tensor& temb) const = 0;
  /// @return dropout probability of the block
  virtual double dropout() const = 0;
};
/// A shared pointer to a residual block.
using ResnetPointer = std::shared_ptr<ResnetBase>;

/// The arguments of Python's `ResnetBlock2D(...)`.
struct ResnetBlock2DOptions {
  int64_t in_channels = 0;                             ///< channels of the input
  std::optional<int64_t> out_channels = std::nullopt;  ///< channels of the result; default: in_channels
  std::optional<int64_t> temb_channels = 512;          ///< width of the time embedding; nullopt: none
  double dropout = 0.0;                                ///< dropout probability before the second convolution
  int64_t groups = 32;                                 ///< groups of the first norm
  std::optional<int64_t> groups_out = std::nullopt;    ///< groups of the second norm; default: groups
  double eps = 1e-6;                                   ///< epsilon of the norms
  layers::Activation non_linearity = layers::Activation::kSilu;  ///< activation function
  bool skip_time_act = false;  ///< omits the activation of the time embedding
  ResnetTimeScaleShift time_embedding_norm = ResnetTimeScaleShift::kDefault;  ///< use of the time embedding
  double output_scale_factor = 1.0;                                           ///< divisor of the result
  /// Applies a 1x1 convolution to the input (shortcut). nullopt: if the number of channels changes.
  std::optional<bool> use_in_shortcut = std::nullopt;
  ResnetResample resample = ResnetResample::kNone;  ///< change of the resolution
  bool conv_shortcut_bias = true;                   ///< bias of the shortcut
  /// Channels of the last convolution; default: out_channels.
  std::optional<int64_t> conv_2d_out_channels = std::nullopt;
};

/// A residual block: norm, activation, resampling, convolution, time embedding, norm, activation, dropout,
/// convolution; added to the input or to its 1x1 convolution (He et al. 2016; diffusers `ResnetBlock2D`).
class ResnetBlock2DImpl : public ResnetBase {
 public:
  /// Makes the layers.
  /// @param options the arguments of the block
  /// @throws ConfigError unless the groups divide the channels
  explicit ResnetBlock2DImpl(const ResnetBlock2DOptions& options);
  /// Applies the block.
  /// @param input `[B, in_channels, H, W]`
  /// @param temb `[B, temb_channels]`; undefined for a block without time embedding
  /// @return `[B, out_channels, H, W]`, with the new height and width if the block resamples
  Tensor forward(const Tensor& input, const Tensor& temb = {}) const override;
  /// @return dropout probability of the block
  double dropout() const override { return options_.dropout; }

 private:
  ResnetBlock2DOptions options_;
  layers::GroupNorm norm1_{nullptr};
  layers::Conv2d conv1_{nullptr};
  layers::Linear time_emb_proj_{nullptr};
  layers::GroupNorm norm2_{nullptr};
  layers::Conv2d conv2_{nullptr};
  layers::Conv2d conv_shortcut_{nullptr};
};
/// A handle of a `ResnetBlock2DImpl`.
TORCH_MODULE(ResnetBlock2D);

/// A group norm without weights. A linear layer computes scale and shift from an embedding (diffusers
/// `AdaGroupNorm`).
class AdaGroupNormImpl : public torch::nn::Module {
 public:
  /// Makes the layer.
  /// @param embedding_dim width of the embedding
  /// @param channels channels of the input
  /// @param num_groups number of groups
  /// @param eps added to the variance
  AdaGroupNormImpl(int64_t embedding_dim, int64_t channels, int64_t num_groups, double eps = 1e-5);
  /// Applies the layer.
  /// @param input `[B, channels, H, W]`
  /// @param embedding `[B, embedding_dim]`
  /// @return shape of input
  Tensor forward(const Tensor& input, const Tensor& embedding) const;

 private:
  int64_t num_groups_;
  double eps_;
  layers::Linear linear_{nullptr};
};
/// A handle of an `AdaGroupNormImpl`.
TORCH_MODULE(AdaGroupNorm);

/// Kind of the norms of a `ResnetBlockCondNorm2D`.
enum class ResnetConditionalNorm {
  kAdaGroup,  ///< `AdaGroupNorm` of an embedding of the whole image
  kSpatial    ///< `SpatialNorm` of latents
};

/// The arguments of Python's `ResnetBlockCondNorm2D(...)`.
struct ResnetBlockCondNorm2DOptions {
  int64_t in_channels = 0;                             ///< channels of the input
  std::optional<int64_t> out_channels = std::nullopt;  ///< channels of the result; default: in_channels
  int64_t temb_channels = 512;                         ///< width of the embedding, or channels of the latents
  double dropout = 0.0;                                ///< dropout probability before the second convolution
  int64_t groups = 32;                                 ///< groups of the first norm
  std::optional<int64_t> groups_out = std::nullopt;    ///< groups of the second norm; default: groups
  double eps = 1e-6;                                   ///< epsilon of the norms
  layers::Activation non_linearity = layers::Activation::kSilu;                  ///< activation function
  ResnetConditionalNorm time_embedding_norm = ResnetConditionalNorm::kAdaGroup;  ///< kind of the norms
  double output_scale_factor = 1.0;                                              ///< divisor of the result
  bool conv_shortcut_bias = true;  ///< bias of the shortcut, the 1x1 convolution of the input
  /// Channels of the last convolution; default: out_channels.
  std::optional<int64_t> conv_2d_out_channels = std::nullopt;
};

/// A residual block whose norms depend on the time embedding or on latents (diffusers
/// `ResnetBlockCondNorm2D`).
class ResnetBlockCondNorm2DImpl : public ResnetBase {
 public:
  /// Makes the layers.
  /// @param options the arguments of the block
  /// @throws ConfigError unless the groups divide the channels
  explicit ResnetBlockCondNorm2DImpl(const ResnetBlockCondNorm2DOptions& options);
  /// Applies the block.
  /// @param input `[B, in_channels, H, W]`
  /// @param temb `[B, temb_channels]`; `[B, temb_channels, h, w]` for `kSpatial`
  /// @return `[B, out_channels, H, W]`
  Tensor forward(const Tensor& input, const Tensor& temb) const override;
  /// @return dropout probability of the block
  double dropout() const override { return options_.dropout; }

 private:
  ResnetBlockCondNorm2DOptions options_;
  AdaGroupNorm norm1_{nullptr};
  SpatialNorm spatial_norm1_{nullptr};
  layers::Conv2d conv1_{nullptr};
  AdaGroupNorm norm2_{nullptr};
  SpatialNorm spatial_norm2_{nullptr};
  layers::Conv2d conv2_{nullptr};
  layers::Conv2d conv_shortcut_{nullptr};
};
/// A handle of a `ResnetBlockCondNorm2DImpl`.
TORCH_MODULE(ResnetBlockCondNorm2D);

}  // namespace diffusers
