#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

namespace diffusers {

/// Interpolation between the stages of a `DecoderTiny` (torch.nn `Upsample`, `mode`).
enum class UpsampleMode {
  kNearest,       ///< nearest element
  kNearestExact,  ///< nearest element, for any factor at the same position as other libraries
  kBilinear,      ///< linear in both directions, corners not aligned
  kBicubic,       ///< cubic in both directions, corners not aligned
  kArea           ///< mean of the area
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<UpsampleMode> {
  static constexpr std::string_view kKey = "upsample_fn";
  static constexpr std::array<std::pair<UpsampleMode, std::string_view>, 5> kTable{
      {{UpsampleMode::kNearest, "nearest"},
       {UpsampleMode::kNearestExact, "nearest-exact"},
       {UpsampleMode::kBilinear, "bilinear"},
       {UpsampleMode::kBicubic, "bicubic"},
       {UpsampleMode::kArea, "area"}}};
};

inline namespace internal {
class TinyLayers;
}  // namespace internal

/// The arguments of Python's `EncoderTiny(...)`.
struct EncoderTinyOptions {
  int64_t in_channels = 3;                                     ///< channels of the images
  int64_t out_channels = 4;                                    ///< channels of the latents
  std::vector<int64_t> num_blocks = {1, 3, 3, 3};              ///< residual blocks of each stage
  std::vector<int64_t> block_out_channels = {64, 64, 64, 64};  ///< channels of each stage, all equal
  std::string act_fn = "relu";                                 ///< "silu" ("swish"), "mish", "gelu", "relu"
};

/// The part of an AutoencoderTiny that computes latents from images (diffusers `EncoderTiny`).
class EncoderTinyImpl : public torch::nn::Module {
 public:
  /// Makes the layers.
  /// @param options the arguments of the encoder
  /// @throws ConfigError naming the key and the value that is not supported
  explicit EncoderTinyImpl(const EncoderTinyOptions& options = {});
  /// Computes latents. Each stage after the first halves the resolution and rounds up.
  /// @param x images `[B, in_channels, H, W]` in [-1, 1]
  /// @return latents `[B, out_channels, h, w]`, h and w divided by `2^(stages - 1)` and rounded up
  Tensor forward(const Tensor& x) const;
  /// Sets gradient checkpointing.
  /// @param enabled recomputes each block in the backward pass instead of keeping its intermediate results
  void set_gradient_checkpointing(bool enabled) { gradient_checkpointing_ = enabled; }

  layers::Conv2d conv_in{nullptr};  ///< the first convolution

 private:
  bool gradient_checkpointing_ = false;
  std::shared_ptr<TinyLayers> layers_;
};
/// A handle of an `EncoderTinyImpl`.
TORCH_MODULE(EncoderTiny);

/// The arguments of Python's `DecoderTiny(...)`.
struct DecoderTinyOptions {
  int64_t in_channels = 4;                                     ///< channels of the latents
  int64_t out_channels = 3;                                    ///< channels of the images
  std::vector<int64_t> num_blocks = {3, 3, 3, 1};              ///< residual blocks of each stage
  std::vector<int64_t> block_out_channels = {64, 64, 64, 64};  ///< channels of each stage, all equal
  int64_t upsampling_scaling_factor = 2;                       ///< factor of the resolution between stages
  std::string act_fn = "relu";                                 ///< "silu" ("swish"), "mish", "gelu", "relu"
  UpsampleMode upsample_fn = UpsampleMode::kNearest;           ///< interpolation between stages
};

/// The part of an AutoencoderTiny that computes images from latents (diffusers `DecoderTiny`).
class DecoderTinyImpl : public torch::nn::Module {
 public:
  /// Makes the layers.
  /// @param options the arguments of the decoder
  /// @throws ConfigError naming the key and the value that is not supported
  explicit DecoderTinyImpl(const DecoderTinyOptions& options = {});
  /// Computes images. Latents are first mapped to (-3, 3) by 3 tanh(x / 3).
  /// @param x latents `[B, in_channels, h, w]`
  /// @return images `[B, out_channels, h f, w f]`, f = `upsampling_scaling_factor^(stages - 1)`
  Tensor forward(const Tensor& x) const;
  /// Sets gradient checkpointing.
  /// @param enabled recomputes each block in the backward pass instead of keeping its intermediate results
  void set_gradient_checkpointing(bool enabled) { gradient_checkpointing_ = enabled; }

  layers::Conv2d conv_in{nullptr};  ///< the first convolution

 private:
  bool gradient_checkpointing_ = false;
  std::shared_ptr<TinyLayers> layers_;
};
/// A handle of a `DecoderTinyImpl`.
TORCH_MODULE(DecoderTiny);

}  // namespace diffusers
