#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/one_or_many.h>
#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/diagonal_gaussian.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/model.h>
#include <diffusers/models/vae.h>

namespace diffusers {

/// The arguments of Python's `AutoencoderKL(...)`, with its defaults.
struct AutoencoderKLConfig {
  int64_t in_channels = 3;   ///< channels of the images that are encoded
  int64_t out_channels = 3;  ///< channels of the images that are decoded
  /// Types of the encoder's blocks, from the full resolution to the lowest: DownEncoderBlock2D,
  /// AttnDownEncoderBlock2D.
  std::vector<std::string> down_block_types = {"DownEncoderBlock2D"};
  /// Types of the decoder's blocks, from the lowest resolution to the full: UpDecoderBlock2D,
  /// AttnUpDecoderBlock2D.
  std::vector<std::string> up_block_types = {"UpDecoderBlock2D"};
  std::vector<int64_t> block_out_channels = {64};  ///< output channels of each block of the encoder
  int64_t layers_per_block = 1;  ///< residual blocks of each block of the encoder; the decoder has one more
  std::string act_fn = "silu";   ///< "silu" ("swish"), "mish", "gelu", "relu"
  int64_t latent_channels = 4;   ///< channels of the latents
  int64_t norm_num_groups = 32;  ///< groups of the group norms
  /// Height and width of images; the first is the default size of tiles.
  OneOrMany<int64_t> sample_size = 32;
  double scaling_factor = 0.18215;  ///< factor of the latents in pipelines and in training
  /// Subtracted from the latents before scaling, in Python's pipelines. nullopt: 0.
  std::optional<double> shift_factor = std::nullopt;
  std::vector<double> latents_mean = {};  ///< mean of each channel of the latents, for pipelines
  std::vector<double> latents_std = {};   ///< standard deviation of each channel, for pipelines
  bool force_upcast = true;               ///< pipelines run the model in float32
  bool use_quant_conv = true;             ///< 1x1 convolution after the encoder
  bool use_post_quant_conv = true;        ///< 1x1 convolution before the decoder
  bool mid_block_add_attention = true;    ///< attention in the mid blocks
};

/// Lists the fields of a config for reading and writing config.json.
/// @param config the fields
/// @param visit called once for each field
void visit_fields(AutoencoderKLConfig& config, ConfigVisitor& visit);

/// The result of `AutoencoderKL::encode`.
struct AutoencoderKLOutput {
  DiagonalGaussianDistribution latent_dist;  ///< distribution of the latents
};

/// The optional arguments of `AutoencoderKL::forward`.
struct AutoencoderKLForwardOptions {
  bool sample_posterior = false;                      ///< samples the latents; false: uses their mode
  std::optional<Generator> generator = std::nullopt;  ///< source of the sample; nullopt: global generator
};

/// The variational autoencoder of latent diffusion (Rombach et al. 2022; diffusers `AutoencoderKL`).
/// Parameters have Python's state-dict names. They are drawn in Python's order, so a seed gives Python's
/// weights.
class AutoencoderKLImpl : public ModelImpl<AutoencoderKLImpl, AutoencoderKLConfig> {
 public:
  static constexpr std::string_view kClassName = "AutoencoderKL";  ///< class name in config.json
  using ForwardOptions = AutoencoderKLForwardOptions;              ///< optional arguments of `forward`

  /// Makes a model with new weights.
  /// @param config the arguments of the model
  /// @throws ConfigError naming the key and the value that is not supported
  explicit AutoencoderKLImpl(AutoencoderKLConfig config = {});
  /// Builds the layers again with new weights.
  void reset() override;

  /// Computes the distribution of the latents of images.
  /// @param x `[B, in_channels, H, W]`, dtype and device of the model, H and W at least `2^(blocks - 1)`
  /// @return latent_dist of shape `[B, latent_channels, H / 2^(blocks - 1), W / 2^(blocks - 1)]`, not scaled
  /// @throws TensorError naming both sides if a shape, dtype or device does not fit
  AutoencoderKLOutput encode(const Tensor& x) const;
  /// Computes images from latents.
  /// @param z `[B, latent_channels, h, w]`, divided by scaling_factor
  /// @return sample `[B, out_channels, h * 2^(blocks - 1), w * 2^(blocks - 1)]`
  /// @throws TensorError as `encode`
  DecoderOutput decode(const Tensor& z) const;
  /// Encodes and decodes images.
  /// @param sample images, as `encode` takes them
  /// @param options sampling of the latents
  /// @return the reconstruction, as `decode` returns it
  /// @throws TensorError as `encode`
  DecoderOutput forward(const Tensor& sample, const AutoencoderKLForwardOptions& options = {}) const;

  /// Makes `encode` and `decode` process one sample of a batch at a time. Saves memory.
  void enable_slicing() { use_slicing = true; }
  /// Makes `encode` and `decode` process whole batches again.
  void disable_slicing() { use_slicing = false; }
  /// Makes `encode` and `decode` split images larger than a tile into overlapping tiles and blend the tiles.
  void enable_tiling() { use_tiling = true; }
  /// Makes `encode` and `decode` process whole images again.
  void disable_tiling() { use_tiling = false; }
  /// Encodes in overlapping tiles, for images of any size.
  /// @param x images, as `encode` takes them
  /// @return the distribution of the latents
  /// @throws ConfigError if the overlap is so large that tiles do not advance
  /// @throws TensorError as `encode`
  AutoencoderKLOutput tiled_encode(const Tensor& x) const;
  /// Decodes in overlapping tiles, for latents of any size.
  /// @param z latents, as `decode` takes them
  /// @return the images
  /// @throws ConfigError if the overlap is so large that tiles do not advance
  /// @throws TensorError as `decode`
  DecoderOutput tiled_decode(const Tensor& z) const;

  /// Recomputes blocks in the backward pass instead of keeping their intermediate results. Saves memory and
  /// costs time. Values and gradients stay the same.
  void enable_gradient_checkpointing() { set_gradient_checkpointing(true); }
  /// Disables gradient checkpointing.
  void disable_gradient_checkpointing() { set_gradient_checkpointing(false); }
  /// @return true if gradient checkpointing is enabled
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

  bool use_slicing = false;          ///< state of `enable_slicing`
  bool use_tiling = false;           ///< state of `enable_tiling`
  int64_t tile_sample_min_size = 0;  ///< side of a tile of the image; sample_size by default
  int64_t tile_latent_min_size = 0;  ///< side of a tile of the latents; tile_sample_min_size / 2^(blocks - 1)
  double tile_overlap_factor = 0.25;  ///< overlap of neighbouring tiles as a fraction of a tile, in [0, 1)

  VaeEncoder encoder{nullptr};         ///< computes the moments of the latents from images
  VaeDecoder decoder{nullptr};         ///< computes images from latents
  layers::Conv2d quant_conv{nullptr};  ///< 1x1 convolution after the encoder; empty without use_quant_conv
  /// 1x1 convolution before the decoder; empty without use_post_quant_conv.
  layers::Conv2d post_quant_conv{nullptr};

 private:
  friend class ModelImpl<AutoencoderKLImpl, AutoencoderKLConfig>;
  void copy_settings(const AutoencoderKLImpl& other);
  void set_gradient_checkpointing(bool enabled);
  Tensor encode_moments(const Tensor& x) const;
  Tensor encode_tile(const Tensor& x) const;
  Tensor encode_tiles(const Tensor& x) const;
  Tensor decode_sample(const Tensor& z) const;
  Tensor decode_tile(const Tensor& z) const;
  Tensor decode_tiles(const Tensor& z) const;

  bool gradient_checkpointing_ = false;
};

/// A handle of an `AutoencoderKLImpl`: `AutoencoderKL vae({.block_out_channels = {128, 256, 512, 512},
/// ...});`
using AutoencoderKL = ModelHolder<AutoencoderKLImpl, AutoencoderKLConfig>;

}  // namespace diffusers
