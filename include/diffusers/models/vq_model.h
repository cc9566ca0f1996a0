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
  int64_t in_channels = 3;
  int64_t out_channels = 3;
  /// From the full resolution to the lowest: DownEncoderBlock2D, AttnDownEncoderBlock2D.
  std::vector<std::string> down_block_types = {"DownEncoderBlock2D"};
  /// From the lowest resolution to the full: UpDecoderBlock2D, AttnUpDecoderBlock2D.
  std::vector<std::string> up_block_types = {"UpDecoderBlock2D"};
  std::vector<int64_t> block_out_channels = {64};
  int64_t layers_per_block = 1;
  std::string act_fn = "silu";  ///< "silu" ("swish"), "mish", "gelu", "relu"
  int64_t latent_channels = 3;
  OneOrMany<int64_t> sample_size = 32;  ///< only pipelines use it
  int64_t num_vq_embeddings = 256;      ///< vectors of the codebook
  int64_t norm_num_groups = 32;
  std::optional<int64_t> vq_embed_dim = std::nullopt;  ///< their length, latent_channels by default
  double scaling_factor = 0.18215;                     ///< for pipelines and trainers
  /// "spatial": the decoder's norms take the quantized latents (MoVQ); needs vq_embed_dim = latent_channels.
  EnumChoice<VaeNormType> norm_type = VaeNormType::kGroup;
  bool mid_block_add_attention = true;
  bool lookup_from_codebook = false;  ///< decode with force_not_quantize takes indices
  bool force_upcast = false;          ///< for pipelines: run in float32
};

void read_model_config(std::string_view json, std::string_view where, VQModelConfig& config,
                       std::string& source, LoadReport& report);
std::string write_model_config(const VQModelConfig& config, std::string_view source);

struct VQEncoderOutput {
  Tensor latents;  ///< `[B, vq_embed_dim, h, w]`, before quantization
};

/// Arguments of `VQModel::decode`.
struct VQModelDecodeOptions {
  bool force_not_quantize = false;  ///< the input is quantized already, or indices with lookup_from_codebook
  std::vector<int64_t> shape = {};  ///< of the latents that indices stand for: `{B, h, w, vq_embed_dim}`
};

/// The autoencoder with a codebook (Esser et al. 2021; Rombach et al. 2022; diffusers `VQModel`). Parameters
/// have Python's state-dict names and are drawn in Python's order: a seed gives Python's weights.
class VQModelImpl : public ModelImpl<VQModelImpl, VQModelConfig> {
 public:
  static constexpr std::string_view kClassName = "VQModel";

  /// @throws ConfigError naming the key and the value that cannot work
  explicit VQModelImpl(VQModelConfig config = {});
  void reset() override;

  /// @param x `[B, in_channels, H, W]`, dtype and device of the model, H and W at least `2^(blocks - 1)`
  /// @throws TensorError naming both sides if a shape, dtype or device does not fit
  VQEncoderOutput encode(const Tensor& x) const;
  /// @param h `[B, vq_embed_dim, h, w]`; integral indices where lookup_from_codebook and force_not_quantize
  /// say so
  /// @return sample `[B, out_channels, h * 2^(blocks - 1), w * 2^(blocks - 1)]`, and commit_loss: the
  /// quantizer's
  ///   loss, or as many zeros as `h` has rows where it did not run
  /// @throws TensorError as encode
  DecoderOutput decode(const Tensor& h, const VQModelDecodeOptions& options = {}) const;
  /// decode(encode(sample))
  DecoderOutput forward(const Tensor& sample) const;

  /// Trades time for memory: blocks run again in the backward instead of keeping their intermediate results.
  /// Values and gradients stay the same. (Python has it for AutoencoderKL only.)
  void enable_gradient_checkpointing() { set_gradient_checkpointing(true); }
  void disable_gradient_checkpointing() { set_gradient_checkpointing(false); }
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

  VaeEncoder encoder{nullptr};
  layers::Conv2d quant_conv{nullptr};
  VectorQuantizer quantize{nullptr};
  layers::Conv2d post_quant_conv{nullptr};
  VaeDecoder decoder{nullptr};

 private:
  friend class ModelImpl<VQModelImpl, VQModelConfig>;
  void copy_settings(const VQModelImpl& other) { set_gradient_checkpointing(other.gradient_checkpointing_); }
  void set_gradient_checkpointing(bool enabled);

  bool gradient_checkpointing_ = false;
};

/// `VQModel vq({.block_out_channels = {128, 256, 512}, .num_vq_embeddings = 8192, ...});`
using VQModel = ModelHolder<VQModelImpl, VQModelConfig>;

}  // namespace diffusers
