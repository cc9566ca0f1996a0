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

/// How a residual block takes the time embedding: added to the hidden states, or as scale and shift of their
/// norm.
enum class ResnetTimeScaleShift { kDefault, kScaleShift };
template <>
struct EnumNames<ResnetTimeScaleShift> {
  static constexpr std::string_view kKey = "resnet_time_scale_shift";
  static constexpr std::array<std::pair<ResnetTimeScaleShift, std::string_view>, 2> kTable{
      {{ResnetTimeScaleShift::kDefault, "default"}, {ResnetTimeScaleShift::kScaleShift, "scale_shift"}}};
};

struct Downsample2DOptions {
  bool use_conv = false;
  std::optional<int64_t> out_channels = std::nullopt;
  int64_t padding = 1;  ///< 0 pads one row below and one column to the right instead
  int64_t kernel_size = 3;
  bool bias = true;
};

/// Halves height and width, by a strided convolution or by averaging.
class Downsample2DImpl : public torch::nn::Module {
 public:
  explicit Downsample2DImpl(int64_t channels, const Downsample2DOptions& options = {});
  Tensor forward(const Tensor& hidden_states) const;

 private:
  Downsample2DOptions options_;
  layers::Conv2d conv_{nullptr};
};
TORCH_MODULE(Downsample2D);

struct Upsample2DOptions {
  bool use_conv = false;
  std::optional<int64_t> out_channels = std::nullopt;
  int64_t kernel_size = 3;
  int64_t padding = 1;
  bool bias = true;
  bool interpolate = true;
};

/// Doubles height and width by repeating each element, then convolves if asked to.
class Upsample2DImpl : public torch::nn::Module {
 public:
  explicit Upsample2DImpl(int64_t channels, const Upsample2DOptions& options = {});
  /// @param output_size height and width wanted, instead of twice those of hidden_states
  Tensor forward(const Tensor& hidden_states,
                 std::optional<std::array<int64_t, 2>> output_size = std::nullopt) const;

 private:
  Upsample2DOptions options_;
  layers::Conv2d conv_{nullptr};
};
TORCH_MODULE(Upsample2D);

/// Upsamples `[B, C, H, W]` by two through the low-pass filter 1-3-3-1 (Karras et al. 2019; `upsample_2d`).
Tensor fir_upsample_2d(const Tensor& hidden_states);
/// Downsamples by two through the same filter (`downsample_2d`).
Tensor fir_downsample_2d(const Tensor& hidden_states);
/// The resampling of the K-diffusion blocks: reflected borders and the same filter (`KUpsample2D`,
/// `KDownsample2D`).
Tensor k_upsample_2d(const Tensor& hidden_states);
Tensor k_downsample_2d(const Tensor& hidden_states);

/// Whether a residual block changes the resolution, and through which filter.
enum class ResnetResample { kNone, kUp, kDown, kFirUp, kFirDown };

/// What the residual blocks have in common, for lists that hold either kind.
class ResnetBase : public torch::nn::Module {
 public:
  virtual Tensor forward(const Tensor& input, const Tensor& temb) const = 0;
  virtual double dropout() const = 0;
};
using ResnetPointer = std::shared_ptr<ResnetBase>;

struct ResnetBlock2DOptions {
  int64_t in_channels = 0;
  std::optional<int64_t> out_channels = std::nullopt;  ///< in_channels by default
  std::optional<int64_t> temb_channels = 512;          ///< nullopt: a block without time embedding
  double dropout = 0.0;
  int64_t groups = 32;
  std::optional<int64_t> groups_out = std::nullopt;
  double eps = 1e-6;
  layers::Activation non_linearity = layers::Activation::kSilu;
  bool skip_time_act = false;
  ResnetTimeScaleShift time_embedding_norm = ResnetTimeScaleShift::kDefault;
  double output_scale_factor = 1.0;
  std::optional<bool> use_in_shortcut = std::nullopt;  ///< by default where the number of channels changes
  ResnetResample resample = ResnetResample::kNone;
  bool conv_shortcut_bias = true;
  std::optional<int64_t> conv_2d_out_channels = std::nullopt;
};

/// norm, activation, (resampling,) convolution, time embedding, norm, activation, dropout, convolution; added
/// to the input or its 1x1 convolution (diffusers `ResnetBlock2D`).
class ResnetBlock2DImpl : public ResnetBase {
 public:
  explicit ResnetBlock2DImpl(const ResnetBlock2DOptions& options);
  /// @param input `[B, in_channels, H, W]`
  /// @param temb `[B, temb_channels]`, undefined for a block without time embedding
  Tensor forward(const Tensor& input, const Tensor& temb = {}) const override;
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
TORCH_MODULE(ResnetBlock2D);

/// A group norm without weights, scaled and shifted by a linear map of an embedding (diffusers
/// `AdaGroupNorm`).
class AdaGroupNormImpl : public torch::nn::Module {
 public:
  AdaGroupNormImpl(int64_t embedding_dim, int64_t channels, int64_t num_groups, double eps = 1e-5);
  Tensor forward(const Tensor& input, const Tensor& embedding) const;

 private:
  int64_t num_groups_;
  double eps_;
  layers::Linear linear_{nullptr};
};
TORCH_MODULE(AdaGroupNorm);

/// What the norms of a `ResnetBlockCondNorm2D` take: an embedding of the whole image, or latents place by
/// place.
enum class ResnetConditionalNorm { kAdaGroup, kSpatial };

struct ResnetBlockCondNorm2DOptions {
  int64_t in_channels = 0;
  std::optional<int64_t> out_channels = std::nullopt;
  int64_t temb_channels = 512;
  double dropout = 0.0;
  int64_t groups = 32;
  std::optional<int64_t> groups_out = std::nullopt;
  double eps = 1e-6;
  layers::Activation non_linearity = layers::Activation::kSilu;
  ResnetConditionalNorm time_embedding_norm = ResnetConditionalNorm::kAdaGroup;
  double output_scale_factor = 1.0;
  bool conv_shortcut_bias = true;
  std::optional<int64_t> conv_2d_out_channels = std::nullopt;
};

/// A residual block whose two norms take the time embedding, or latents (diffusers `ResnetBlockCondNorm2D`).
class ResnetBlockCondNorm2DImpl : public ResnetBase {
 public:
  explicit ResnetBlockCondNorm2DImpl(const ResnetBlockCondNorm2DOptions& options);
  /// @param input `[B, in_channels, H, W]`
  /// @param temb `[B, temb_channels]`; `[B, temb_channels, h, w]` for `kSpatial`
  Tensor forward(const Tensor& input, const Tensor& temb) const override;
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
TORCH_MODULE(ResnetBlockCondNorm2D);

}  // namespace diffusers
