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

/// Kind of the norms of a decoder.
enum class VaeNormType {
  kGroup,   ///< group norms
  kSpatial  ///< `SpatialNorm` of the latents
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<VaeNormType> {
  static constexpr std::string_view kKey = "norm_type";
  static constexpr std::array<std::pair<VaeNormType, std::string_view>, 2> kTable{
      {{VaeNormType::kGroup, "group"}, {VaeNormType::kSpatial, "spatial"}}};
};

/// The result of an autoencoder's `decode` and `forward`.
struct DecoderOutput {
  Tensor sample;            ///< images `[B, out_channels, H, W]`
  Tensor commit_loss = {};  ///< loss of a VQModel's quantizer; undefined for other models
};

/// The arguments of Python's `Encoder(...)`.
struct VaeEncoderOptions {
  int64_t in_channels = 3;   ///< channels of the images
  int64_t out_channels = 3;  ///< channels of the latents
  /// Types of the blocks, from the full resolution to the lowest.
  std::vector<std::string> down_block_types = {"DownEncoderBlock2D"};
  std::vector<int64_t> block_out_channels = {64};  ///< output channels of each block
  int64_t layers_per_block = 2;                    ///< residual blocks of each block
  int64_t norm_num_groups = 32;                    ///< groups of the norms
  std::string act_fn = "silu";                     ///< "silu" ("swish"), "mish", "gelu", "relu"
  bool double_z = true;                 ///< returns 2 * out_channels channels: mean and log variance
  bool mid_block_add_attention = true;  ///< attention in the mid block
};

/// The part of an autoencoder that computes latents from images (diffusers `Encoder`).
class VaeEncoderImpl : public torch::nn::Module {
 public:
  /// Makes the layers.
  /// @param options the arguments of the encoder
  /// @throws ConfigError naming the key and the value that is not supported
  explicit VaeEncoderImpl(const VaeEncoderOptions& options = {});
  /// Computes latents.
  /// @param sample `[B, in_channels, H, W]`, H and W at least `2^(blocks - 1)`
  /// @return `[B, out_channels (2 out_channels with double_z), H / 2^(blocks - 1), W / 2^(blocks - 1)]`
  /// @throws TensorError if the image is too small to be halved in each block
  Tensor forward(const Tensor& sample) const;
  /// Sets gradient checkpointing.
  /// @param enabled recomputes each block in the backward pass instead of keeping its intermediate results
  void set_gradient_checkpointing(bool enabled) { gradient_checkpointing_ = enabled; }

  layers::Conv2d conv_in{nullptr};  ///< the first convolution

 private:
  bool gradient_checkpointing_ = false;
  layers::ModuleVector<VaeBlockPointer> down_blocks_;
  UNetMidBlock2D mid_block_{nullptr};
  layers::GroupNorm conv_norm_out_{nullptr};
  layers::Conv2d conv_out_{nullptr};
};
/// A handle of a `VaeEncoderImpl`.
TORCH_MODULE(VaeEncoder);

/// The arguments of Python's `Decoder(...)`.
struct VaeDecoderOptions {
  int64_t in_channels = 3;   ///< channels of the latents
  int64_t out_channels = 3;  ///< channels of the images
  /// Types of the blocks, from the lowest resolution to the full.
  std::vector<std::string> up_block_types = {"UpDecoderBlock2D"};
  /// Channels of each block, from the full resolution to the lowest.
  std::vector<int64_t> block_out_channels = {64};
  int64_t layers_per_block = 2;                 ///< number of residual blocks of each block minus one
  int64_t norm_num_groups = 32;                 ///< groups of the norms
  std::string act_fn = "silu";                  ///< "silu" ("swish"), "mish", "gelu", "relu"
  VaeNormType norm_type = VaeNormType::kGroup;  ///< kind of the norms
  bool mid_block_add_attention = true;          ///< attention in the mid block
};

/// The part of an autoencoder that computes images from latents (diffusers `Decoder`).
class VaeDecoderImpl : public torch::nn::Module {
 public:
  /// Makes the layers.
  /// @param options the arguments of the decoder
  /// @throws ConfigError naming the key and the value that is not supported
  explicit VaeDecoderImpl(const VaeDecoderOptions& options = {});
  /// Computes images.
  /// @param sample `[B, in_channels, h, w]`
  /// @param latent_embeds `[B, in_channels, h', w']` for `kSpatial`, undefined for `kGroup`
  /// @return `[B, out_channels, h * 2^(blocks - 1), w * 2^(blocks - 1)]`
  Tensor forward(const Tensor& sample, const Tensor& latent_embeds = {}) const;
  /// Sets gradient checkpointing.
  /// @param enabled recomputes each block in the backward pass instead of keeping its intermediate results
  void set_gradient_checkpointing(bool enabled) { gradient_checkpointing_ = enabled; }

  layers::Conv2d conv_in{nullptr};  ///< the first convolution

 private:
  bool gradient_checkpointing_ = false;
  layers::ModuleVector<VaeBlockPointer> up_blocks_;
  UNetMidBlock2D mid_block_{nullptr};
  layers::GroupNorm conv_norm_out_{nullptr};
  SpatialNorm spatial_norm_out_{nullptr};
  layers::Conv2d conv_out_{nullptr};
};
/// A handle of a `VaeDecoderImpl`.
TORCH_MODULE(VaeDecoder);

}  // namespace diffusers
