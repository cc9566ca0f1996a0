#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/spatial_norm.h>
#include <diffusers/models/unet_2d_blocks.h>
#include <diffusers/models/vae_blocks.h>

namespace diffusers {

/// The norms of a decoder: group norms, or norms that the latents scale and shift.
enum class VaeNormType { kGroup, kSpatial };
template <>
struct EnumNames<VaeNormType> {
  static constexpr std::string_view kKey = "norm_type";
  static constexpr std::array<std::pair<VaeNormType, std::string_view>, 2> kTable{
      {{VaeNormType::kGroup, "group"}, {VaeNormType::kSpatial, "spatial"}}};
};

struct DecoderOutput {
  Tensor sample;            ///< `[B, out_channels, H, W]`
  Tensor commit_loss = {};  ///< of a VQModel, undefined elsewhere
};

/// The arguments of Python's `Encoder(...)`.
struct VaeEncoderOptions {
  int64_t in_channels = 3;
  int64_t out_channels = 3;
  std::vector<std::string> down_block_types = {"DownEncoderBlock2D"};
  std::vector<int64_t> block_out_channels = {64};
  int64_t layers_per_block = 2;
  int64_t norm_num_groups = 32;
  std::string act_fn = "silu";
  bool double_z = true;  ///< 2 * out_channels come out: mean and logarithm of the variance
  bool mid_block_add_attention = true;
};

/// The part of an autoencoder that makes latents of images (diffusers `Encoder`).
class VaeEncoderImpl : public torch::nn::Module {
 public:
  /// @throws ConfigError naming the key and the value that cannot work
  explicit VaeEncoderImpl(const VaeEncoderOptions& options = {});
  /// @param sample `[B, in_channels, H, W]`, H and W at least `2^(blocks - 1)`
  /// @return `[B, out_channels (twice with double_z), H / 2^(blocks - 1), W / 2^(blocks - 1)]`
  /// @throws TensorError if the image is too small to be halved in each block
  Tensor forward(const Tensor& sample) const;
  /// Runs each block again in the backward instead of keeping its intermediate results.
  void set_gradient_checkpointing(bool enabled) { gradient_checkpointing_ = enabled; }

  layers::Conv2d conv_in{nullptr};

 private:
  bool gradient_checkpointing_ = false;
  layers::ModuleVector<VaeBlockPointer> down_blocks_;
  UNetMidBlock2D mid_block_{nullptr};
  layers::GroupNorm conv_norm_out_{nullptr};
  layers::Conv2d conv_out_{nullptr};
};
TORCH_MODULE(VaeEncoder);

/// The arguments of Python's `Decoder(...)`.
struct VaeDecoderOptions {
  int64_t in_channels = 3;
  int64_t out_channels = 3;
  std::vector<std::string> up_block_types = {"UpDecoderBlock2D"};
  std::vector<int64_t> block_out_channels = {64};
  int64_t layers_per_block = 2;
  int64_t norm_num_groups = 32;
  std::string act_fn = "silu";
  VaeNormType norm_type = VaeNormType::kGroup;
  bool mid_block_add_attention = true;
};

/// The part of an autoencoder that makes images of latents (diffusers `Decoder`).
class VaeDecoderImpl : public torch::nn::Module {
 public:
  /// @throws ConfigError naming the key and the value that cannot work
  explicit VaeDecoderImpl(const VaeDecoderOptions& options = {});
  /// @param sample `[B, in_channels, h, w]`
  /// @param latent_embeds `[B, in_channels, h', w']` for `kSpatial`, undefined for `kGroup`
  /// @return `[B, out_channels, h * 2^(blocks - 1), w * 2^(blocks - 1)]`
  Tensor forward(const Tensor& sample, const Tensor& latent_embeds = {}) const;
  /// Runs each block again in the backward instead of keeping its intermediate results.
  void set_gradient_checkpointing(bool enabled) { gradient_checkpointing_ = enabled; }

  layers::Conv2d conv_in{nullptr};

 private:
  bool gradient_checkpointing_ = false;
  layers::ModuleVector<VaeBlockPointer> up_blocks_;
  UNetMidBlock2D mid_block_{nullptr};
  layers::GroupNorm conv_norm_out_{nullptr};
  SpatialNorm spatial_norm_out_{nullptr};
  layers::Conv2d conv_out_{nullptr};
};
TORCH_MODULE(VaeDecoder);

}  // namespace diffusers
