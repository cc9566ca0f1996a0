#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/one_or_many.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/model.h>
#include <diffusers/models/vae.h>
#include <diffusers/models/vector_quantizer.h>

namespace diffusers {

/// The arguments of Python's `VQModel(...)`, with its defaults.
struct VQModelConfig {
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
  int64_t latent_channels = 3;   ///< channels of the encoder's output
  OneOrMany<int64_t> sample_size = 32;  ///< height and width of images, for pipelines
  int64_t num_vq_embeddings = 256;      ///< number of vectors of the codebook
  int64_t norm_num_groups = 32;         ///< groups of the group norms
  /// Length of the codebook's vectors; default: latent_channels.
  std::optional<int64_t> vq_embed_dim = std::nullopt;
  double scaling_factor = 0.18215;  ///< factor of the latents in pipelines and in training
  /// Norms of the decoder. "spatial": norms that depend on the quantized latents (MoVQ), which needs
  /// vq_embed_dim = latent_channels.
  EnumChoice<VaeNormType> norm_type = VaeNormType::kGroup;
  bool mid_block_add_attention = true;  ///< attention in the mid blocks
  bool lookup_from_codebook = false;    ///< `decode` with force_not_quantize takes indices of the codebook
  bool force_upcast = false;            ///< pipelines run the model in float32
};

/// Lists the fields of a config for reading and writing config.json.
/// @param config the fields
/// @param visit called once for each field
void visit_fields(VQModelConfig& config, ConfigVisitor& visit);

/// The result of `VQModel::encode`.
struct VQEncoderOutput {
  Tensor latents;  ///< `[B, vq_embed_dim, h, w]`, before quantization
};

/// The optional arguments of `VQModel::decode`.
struct VQModelDecodeOptions {
  /// Skips quantization: the input is already quantized, or holds indices if the config has
  /// lookup_from_codebook.
  bool force_not_quantize = false;
  /// Shape `{B, h, w, vq_embed_dim}` of the latents, for an input of indices.
  std::vector<int64_t> shape = {};
};

/// An autoencoder with a codebook (Esser et al. 2021; Rombach et al. 2022; diffusers `VQModel`). Parameters
/// have Python's state-dict names. They are drawn in Python's order, so a seed gives Python's weights.
class VQModelImpl : public ModelImpl<VQModelImpl, VQModelConfig> {
 public:
  static constexpr std::string_view kClassName = "VQModel";  ///< class name in config.json

  /// Makes a model with new weights.
  /// @param config the arguments of the model
  /// @throws ConfigError naming the key and the value that is not supported
  explicit VQModelImpl(VQModelConfig config = {});
  /// Builds the layers again with new weights.
  void reset() override;

  /// Computes the latents of images.
  /// @param x `[B, in_channels, H, W]`, dtype and device of the model, H and W at least `2^(blocks - 1)`
  /// @return the latents, not scaled
  /// @throws TensorError naming both sides if a shape, dtype or device does not fit
  VQEncoderOutput encode(const Tensor& x) const;
  /// Quantizes latents and computes images from them.
  /// @param h `[B, vq_embed_dim, h, w]`; integral indices with lookup_from_codebook and force_not_quantize
  /// @param options kind of the input
  /// @return sample `[B, out_channels, h * 2^(blocks - 1), w * 2^(blocks - 1)]`, and commit_loss: the
  ///   quantizer's loss, or `[B]` zeros if the quantizer did not run
  /// @throws TensorError as `encode`
  DecoderOutput decode(const Tensor& h, const VQModelDecodeOptions& options = {}) const;
  /// Encodes and decodes images.
  /// @param sample images, as `encode` takes them
  /// @return the reconstruction, as `decode` returns it
  /// @throws TensorError as `encode`
  DecoderOutput forward(const Tensor& sample) const;

  /// Recomputes blocks in the backward pass instead of keeping their intermediate results. Saves memory and
  /// costs time. Values and gradients stay the same. Python's VQModel does not
  /// support it.
  void enable_gradient_checkpointing() { set_gradient_checkpointing(true); }
  /// Disables gradient checkpointing.
  void disable_gradient_checkpointing() { set_gradient_checkpointing(false); }
  /// @return true if gradient checkpointing is enabled
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

  VaeEncoder encoder{nullptr};              ///< computes latents from images
  layers::Conv2d quant_conv{nullptr};       ///< 1x1 convolution after the encoder
  VectorQuantizer quantize{nullptr};        ///< the codebook
  layers::Conv2d post_quant_conv{nullptr};  ///< 1x1 convolution before the decoder
  VaeDecoder decoder{nullptr};              ///< computes images from latents

 private:
  friend class ModelImpl<VQModelImpl, VQModelConfig>;
  void copy_settings(const VQModelImpl& other) { set_gradient_checkpointing(other.gradient_checkpointing_); }
  void set_gradient_checkpointing(bool enabled);

  bool gradient_checkpointing_ = false;
};

/// A handle of a `VQModelImpl`: `VQModel vq({.block_out_channels = {128, 256, 512}, .num_vq_embeddings =
/// 8192, ...});`
using VQModel = ModelHolder<VQModelImpl, VQModelConfig>;

}  // namespace diffusers
