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
  int64_t in_channels = 3;
  int64_t out_channels = 3;
  /// From the full resolution to the lowest: DownEncoderBlock2D, AttnDownEncoderBlock2D.
  std::vector<std::string> down_block_types = {"DownEncoderBlock2D"};
  /// From the lowest resolution to the full: UpDecoderBlock2D, AttnUpDecoderBlock2D.
  std::vector<std::string> up_block_types = {"UpDecoderBlock2D"};
  std::vector<int64_t> block_out_channels = {64};
  int64_t layers_per_block = 1;
  std::string act_fn = "silu";  ///< "silu" ("swish"), "mish", "gelu", "relu"
  int64_t latent_channels = 4;
  int64_t norm_num_groups = 32;
  OneOrMany<int64_t> sample_size = 32;                ///< the (first) number is the default size of tiles
  double scaling_factor = 0.18215;                    ///< for pipelines and trainers: latents are multiplied
  std::optional<double> shift_factor = std::nullopt;  ///< for pipelines: subtracted before the multiplication
  std::vector<double> latents_mean = {};              ///< for pipelines, of each channel
  std::vector<double> latents_std = {};               ///< for pipelines, of each channel
  bool force_upcast = true;                           ///< for pipelines: run in float32
  bool use_quant_conv = true;                         ///< a 1x1 convolution behind the encoder
  bool use_post_quant_conv = true;                    ///< a 1x1 convolution before the decoder
  bool mid_block_add_attention = true;
};

void read_model_config(std::string_view json, std::string_view where, AutoencoderKLConfig& config,
                       std::string& source, LoadReport& report);
std::string write_model_config(const AutoencoderKLConfig& config, std::string_view source);

struct AutoencoderKLOutput {
  DiagonalGaussianDistribution latent_dist;
};

/// Arguments of `AutoencoderKL::forward`.
struct AutoencoderKLOptions {
  bool sample_posterior = false;                      ///< draw from the posterior; else its mode
  std::optional<Generator> generator = std::nullopt;  ///< of that draw
};

/// The variational autoencoder of latent diffusion (Rombach et al. 2022; diffusers `AutoencoderKL`).
/// Parameters have Python's state-dict names and are drawn in Python's order: a seed gives Python's weights.
class AutoencoderKLImpl : public ModelImpl<AutoencoderKLImpl, AutoencoderKLConfig> {
 public:
  static constexpr std::string_view kClassName = "AutoencoderKL";

  /// @throws ConfigError naming the key and the value that cannot work
  explicit AutoencoderKLImpl(AutoencoderKLConfig config = {});
  void reset() override;

  /// The distribution of the latents of images.
  /// @param x `[B, in_channels, H, W]`, dtype and device of the model, H and W at least `2^(blocks - 1)`
  /// @return latent_dist over `[B, latent_channels, H / 2^(blocks - 1), W / 2^(blocks - 1)]`, not scaled
  /// @throws TensorError naming both sides if a shape, dtype or device does not fit
  AutoencoderKLOutput encode(const Tensor& x) const;
  /// Images of latents.
  /// @param z `[B, latent_channels, h, w]`, divided by scaling_factor
  /// @return sample `[B, out_channels, h * 2^(blocks - 1), w * 2^(blocks - 1)]`
  /// @throws TensorError as encode
  DecoderOutput decode(const Tensor& z) const;
  /// decode(encode(sample))
  DecoderOutput forward(const Tensor& sample, const AutoencoderKLOptions& options = {}) const;

  /// encode and decode treat one sample of a batch after the other.
  void enable_slicing() { use_slicing = true; }
  void disable_slicing() { use_slicing = false; }
  /// encode and decode cut what is larger than a tile into overlapping tiles, and blend these.
  void enable_tiling() { use_tiling = true; }
  void disable_tiling() { use_tiling = false; }
  /// encode and decode in tiles, whatever the size.
  /// @throws ConfigError if the tile sizes below leave nothing to go on by
  AutoencoderKLOutput tiled_encode(const Tensor& x) const;
  DecoderOutput tiled_decode(const Tensor& z) const;

  /// Trades time for memory: blocks run again in the backward instead of keeping their intermediate results.
  /// Values and gradients stay the same.
  void enable_gradient_checkpointing() { set_gradient_checkpointing(true); }
  void disable_gradient_checkpointing() { set_gradient_checkpointing(false); }
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

  bool use_slicing = false;
  bool use_tiling = false;
  int64_t tile_sample_min_size = 0;  ///< side of a tile of the image, sample_size at first
  int64_t tile_latent_min_size = 0;  ///< side of a tile of the latents, tile_sample_min_size / 2^(blocks - 1)
  double tile_overlap_factor = 0.25;  ///< how much of a tile its neighbour covers too, in [0, 1)

  VaeEncoder encoder{nullptr};
  VaeDecoder decoder{nullptr};
  layers::Conv2d quant_conv{nullptr};       ///< empty without use_quant_conv
  layers::Conv2d post_quant_conv{nullptr};  ///< empty without use_post_quant_conv

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

/// `AutoencoderKL vae({.block_out_channels = {128, 256, 512, 512}, ...});`
using AutoencoderKL = ModelHolder<AutoencoderKLImpl, AutoencoderKLConfig>;

}  // namespace diffusers
