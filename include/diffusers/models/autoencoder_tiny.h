#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/model.h>
#include <diffusers/models/vae.h>
#include <diffusers/models/vae_tiny.h>

namespace diffusers {

/// The arguments of Python's `AutoencoderTiny(...)`, with its defaults.
struct AutoencoderTinyConfig {
  int64_t in_channels = 3;   ///< channels of the images that are encoded
  int64_t out_channels = 3;  ///< channels of the images that are decoded
  /// Channels of each stage of the encoder, all equal. Python accepts other values and fails in `encode`.
  std::vector<int64_t> encoder_block_out_channels = {64, 64, 64, 64};
  /// Channels of each stage of the decoder, all equal. Python accepts other values and fails in `decode`.
  std::vector<int64_t> decoder_block_out_channels = {64, 64, 64, 64};
  std::string act_fn = "relu";  ///< "silu" ("swish"), "mish", "gelu", "relu"
  /// Interpolation between the decoder's stages: "nearest", "nearest-exact", "bilinear", "bicubic", "area".
  EnumChoice<UpsampleMode> upsample_fn = UpsampleMode::kNearest;
  int64_t latent_channels = 4;            ///< channels of the latents
  int64_t upsampling_scaling_factor = 2;  ///< factor of the resolution between the decoder's stages
  std::vector<int64_t> num_encoder_blocks = {1, 3, 3, 3};  ///< residual blocks of each stage of the encoder
  std::vector<int64_t> num_decoder_blocks = {3, 3, 3, 1};  ///< residual blocks of each stage of the decoder
  double latent_magnitude = 3;  ///< half the range of the latents that `scale_latents` maps to [0, 1]
  double latent_shift = 0.5;    ///< value to which `scale_latents` maps latents of 0
  /// Has no effect. As in Python, the model sets it to false; true gives a warning.
  bool force_upcast = false;
  double scaling_factor = 1.0;  ///< factor of the latents in Python's pipelines
  double shift_factor = 0.0;    ///< subtracted from the latents before scaling, in Python's pipelines
  /// Not an argument of Python's constructor, but in its config: channels that pipelines read. Empty:
  /// decoder_block_out_channels.
  std::vector<int64_t> block_out_channels = {};
};

/// Lists the fields of a config for reading and writing config.json.
/// @param config the fields
/// @param visit called once for each field
void visit_fields(AutoencoderTinyConfig& config, ConfigVisitor& visit);
/// Reads a config from the text of a config.json, with Python's semantics.
/// @param json the text
/// @param where path of the file, for messages
/// @param config receives the fields
/// @param source receives the JSON that was read
/// @param report receives the unknown keys
/// @throws ConfigError naming the key and the value that does not fit
/// @throws FileError if the text is not JSON
void read_model_config(std::string_view json, std::string_view where, AutoencoderTinyConfig& config,
                       std::string& source, LoadReport& report);
/// Writes the text of a config.json as Python does.
/// @param config the fields
/// @param source the JSON that was read, whose unknown keys are kept; empty if there was none
/// @return the text
std::string write_model_config(const AutoencoderTinyConfig& config, std::string_view source);

/// The result of `AutoencoderTiny::encode`.
struct AutoencoderTinyOutput {
  Tensor latents;  ///< `[B, latent_channels, h, w]`, not scaled
};

/// A small distilled autoencoder (TAESD; diffusers `AutoencoderTiny`). Its latents are not random. Parameters
/// have Python's state-dict names. They are drawn in Python's order, so a seed gives Python's weights.
class AutoencoderTinyImpl : public ModelImpl<AutoencoderTinyImpl, AutoencoderTinyConfig> {
 public:
  static constexpr std::string_view kClassName = "AutoencoderTiny";  ///< class name in config.json

  /// Makes a model with new weights.
  /// @param config the arguments of the model
  /// @throws ConfigError naming the key and the value that is not supported
  explicit AutoencoderTinyImpl(AutoencoderTinyConfig config = {});
  /// Builds the layers again with new weights.
  void reset() override;

  /// Computes the latents of images.
  /// @param x `[B, in_channels, H, W]` in [-1, 1], dtype and device of the model
  /// @return latents, h and w are H and W divided by `2^(encoder stages - 1)` and rounded up
  /// @throws TensorError naming both sides if a shape, dtype or device does not fit
  /// @throws ConfigError if tiling is enabled and the tiles do not fit (`enable_tiling`)
  AutoencoderTinyOutput encode(const Tensor& x) const;
  /// Computes images from latents.
  /// @param x `[B, latent_channels, h, w]`, not scaled
  /// @return sample `[B, out_channels, h f, w f]`, f = `upsampling_scaling_factor^(decoder stages - 1)`
  /// @throws TensorError as `encode`
  /// @throws ConfigError as `encode`
  DecoderOutput decode(const Tensor& x) const;
  /// Encodes images, rounds the scaled latents to 8 bits, and decodes them. The encoder gets no gradient,
  /// since rounding has none. To train the encoder, call `encode` and `decode`.
  /// @param sample images, as `encode` takes them
  /// @return the reconstruction, as `decode` returns it
  /// @throws TensorError as `encode`
  /// @throws ConfigError as `encode`
  DecoderOutput forward(const Tensor& sample) const;
  /// Maps latents to [0, 1]: clamp(x / (2 latent_magnitude) + latent_shift, 0, 1).
  /// @param x latents of any shape
  /// @return shape of x
  Tensor scale_latents(const Tensor& x) const;
  /// Maps scaled latents back: (x - latent_shift) 2 latent_magnitude.
  /// @param x result of `scale_latents`
  /// @return shape of x
  Tensor unscale_latents(const Tensor& x) const;

  /// Makes `encode` and `decode` process one sample of a batch at a time. Saves memory.
  void enable_slicing() { use_slicing = true; }
  /// Makes `encode` and `decode` process whole batches again.
  void disable_slicing() { use_slicing = false; }
  /// Makes `encode` and `decode` split their input into overlapping tiles and blend the tiles. The start and
  /// size of a tile of an image must be multiples of `2^(encoder stages - 1)`, unless the tile is the last.
  void enable_tiling() { use_tiling = true; }
  /// Makes `encode` and `decode` process whole images again.
  void disable_tiling() { use_tiling = false; }

  /// Recomputes blocks in the backward pass instead of keeping their intermediate results. Saves memory and
  /// costs time. Values and gradients stay the same. In Python, the encoder then skips the mapping of images
  /// from [-1, 1] to [0, 1].
  void enable_gradient_checkpointing() { set_gradient_checkpointing(true); }
  /// Disables gradient checkpointing.
  void disable_gradient_checkpointing() { set_gradient_checkpointing(false); }
  /// @return true if gradient checkpointing is enabled
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

  bool use_slicing = false;            ///< state of `enable_slicing`
  bool use_tiling = false;             ///< state of `enable_tiling`
  int64_t tile_sample_min_size = 512;  ///< side of a tile of the image
  int64_t tile_latent_min_size = 64;   ///< side of a tile of the latents; 512 / 2^(encoder stages - 1)
  double tile_overlap_factor = 0.125;  ///< overlap of neighbouring tiles as a fraction of a tile, in [0, 1)

  EncoderTiny encoder{nullptr};  ///< computes latents from images
  DecoderTiny decoder{nullptr};  ///< computes images from latents

 private:
  friend class ModelImpl<AutoencoderTinyImpl, AutoencoderTinyConfig>;
  void copy_settings(const AutoencoderTinyImpl& other);
  void set_gradient_checkpointing(bool enabled);

  bool gradient_checkpointing_ = false;
};

/// A handle of an `AutoencoderTinyImpl`: `AutoencoderTiny taesd = AutoencoderTiny::from_pretrained("taesd");`
using AutoencoderTiny = ModelHolder<AutoencoderTinyImpl, AutoencoderTinyConfig>;

}  // namespace diffusers
