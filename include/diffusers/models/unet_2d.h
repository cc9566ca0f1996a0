#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/one_or_many.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/embeddings.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/lora.h>
#include <diffusers/models/model.h>
#include <diffusers/models/unet_2d_blocks.h>
#include <diffusers/models/unet_enums.h>

namespace diffusers {

/// The arguments of Python's `UNet2DModel(...)`, with its defaults.
struct UNet2DModelConfig {
  OneOrMany<int64_t> sample_size = {};  ///< height and width of samples (one or two numbers), for pipelines
  int64_t in_channels = 3;              ///< channels of the sample
  int64_t out_channels = 3;             ///< channels of the prediction
  bool center_input_sample = false;     ///< maps the sample from [0, 1] to [-1, 1]
  /// Features of the timestep before the linear layers.
  EnumChoice<TimeEmbeddingType> time_embedding_type = TimeEmbeddingType::kPositional;
  std::optional<int64_t> time_embedding_dim = std::nullopt;  ///< default: 4 * block_out_channels[0]
  int64_t freq_shift = 0;                                    ///< downscale_freq_shift of the time embedding
  bool flip_sin_to_cos = true;                               ///< cosines precede sines in the time embedding
  /// Types of the down blocks, from the full resolution to the lowest: DownBlock2D, ResnetDownsampleBlock2D,
  /// AttnDownBlock2D, SkipDownBlock2D, AttnSkipDownBlock2D, KDownBlock2D.
  std::vector<std::string> down_block_types = {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D",
                                               "AttnDownBlock2D"};
  std::optional<std::string> mid_block_type = "UNetMidBlock2D";  ///< "UNetMidBlock2D", or nullopt for none
  /// Types of the up blocks, from the lowest resolution to the full: UpBlock2D, ResnetUpsampleBlock2D,
  /// AttnUpBlock2D, SkipUpBlock2D, AttnSkipUpBlock2D, KUpBlock2D.
  std::vector<std::string> up_block_types = {"AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"};
  std::vector<int64_t> block_out_channels = {224, 448, 672, 896};  ///< output channels of each down block
  int64_t layers_per_block = 2;                                    ///< residual blocks of each down block
  double mid_block_scale_factor = 1;                               ///< divisor of the mid block's outputs
  int64_t downsample_padding = 1;  ///< padding of convolutions that downsample; 0: below and right only
  EnumChoice<DownsampleType> downsample_type = DownsampleType::kConv;  ///< downsampling of AttnDownBlock2D
  EnumChoice<UpsampleType> upsample_type = UpsampleType::kConv;        ///< upsampling of AttnUpBlock2D
  double dropout = 0.0;                           ///< dropout probability in residual blocks
  std::string act_fn = "silu";                    ///< "silu" ("swish"), "mish", "gelu", "relu"
  std::optional<int64_t> attention_head_dim = 8;  ///< channels of a head; nullopt: one head for all channels
  /// Groups of the group norms. nullopt is supported with Skip and K blocks only; the other norms of such a
  /// model have min(channels / 4, 32) groups.
  std::optional<int64_t> norm_num_groups = 32;
  /// Groups of the norm in the mid block's attention.
  std::optional<int64_t> attn_norm_num_groups = std::nullopt;
  double norm_eps = 1e-5;  ///< epsilon of the group norms
  /// Use of the time embedding in residual blocks.
  EnumChoice<ResnetTimeScaleShift> resnet_time_scale_shift = ResnetTimeScaleShift::kDefault;
  bool add_attention = true;                                                  ///< attention in the mid block
  std::optional<EnumChoice<ClassEmbedType>> class_embed_type = std::nullopt;  ///< "timestep" or "identity"
  std::optional<int64_t> num_class_embeds = std::nullopt;     ///< number of classes; nullopt: no class table
  std::optional<int64_t> num_train_timesteps = std::nullopt;  ///< rows of the learned time embedding
};

/// Reads a config from the text of a config.json, with Python's semantics.
/// @param json the text
/// @param where path of the file, for messages
/// @param config receives the fields
/// @param source receives the JSON that was read
/// @param report receives the unknown keys
/// @throws ConfigError naming the key and the value that does not fit
/// @throws FileError if the text is not JSON
void read_model_config(std::string_view json, std::string_view where, UNet2DModelConfig& config,
                       std::string& source, LoadReport& report);
/// Writes the text of a config.json as Python does.
/// @param config the fields
/// @param source the JSON that was read, whose unknown keys are kept; empty if there was none
/// @return the text
std::string write_model_config(const UNet2DModelConfig& config, std::string_view source);

/// The optional arguments of `UNet2DModel::forward`.
struct UNet2DModelForwardOptions {
  /// Classes: `[B]` integral for `num_class_embeds`, `[B]` for "timestep", `[B, time_embedding_dim]` for
  /// "identity".
  Tensor class_labels = {};
};

/// The result of `UNet2DModel::forward`.
struct UNet2DOutput {
  Tensor sample;  ///< prediction `[B, out_channels, H, W]`
};

/// The UNet of unconditional and class-conditional diffusion (Ho et al. 2020, Song et al. 2021; diffusers
/// `UNet2DModel`). Parameters have Python's state-dict names and are drawn in Python's order: after
/// `torch::manual_seed(0)` a new model has, bit for bit, the weights of Python's model after
/// `torch.manual_seed(0)`.
class UNet2DModelImpl : public ModelImpl<UNet2DModelImpl, UNet2DModelConfig>,
                        public PeftAdapterMixin<UNet2DModelImpl> {
 public:
  static constexpr std::string_view kClassName = "UNet2DModel";  ///< class name in config.json
  using ForwardOptions = UNet2DModelForwardOptions;              ///< optional arguments of `forward`

  /// Makes a model with new weights.
  /// @param config the arguments of the model
  /// @throws ConfigError naming the key and the value that is not supported
  explicit UNet2DModelImpl(UNet2DModelConfig config = {});
  /// Builds the layers again with new weights.
  void reset() override;

  /// Predicts from noisy samples.
  /// @param sample `[B, in_channels, H, W]`, dtype and device of the model. Each downsampling halves H and W
  ///   without remainder.
  /// @param timesteps `[B]`, `[1]` or 0-dim; integral, or floating for noise levels and continuous times
  /// @param options class labels
  /// @return the prediction `[B, out_channels, H, W]`
  /// @throws TensorError naming both sides if a shape, dtype, device or range does not fit, or if class
  ///   labels are missing or not expected
  UNet2DOutput forward(const Tensor& sample, const Tensor& timesteps,
                       const UNet2DModelForwardOptions& options = {}) const;
  /// Predicts with one timestep for all samples.
  /// @param sample as above
  /// @param timestep the timestep; truncated to an integer, as in Python. A tensor keeps the fraction.
  /// @param options class labels
  /// @return the prediction `[B, out_channels, H, W]`
  /// @throws TensorError as above
  UNet2DOutput forward(const Tensor& sample, const at::Scalar& timestep,
                       const UNet2DModelForwardOptions& options = {}) const;

  /// Recomputes residual blocks in the backward pass instead of keeping their intermediate results. Saves
  /// memory and costs time. Values and gradients stay the same.
  void enable_gradient_checkpointing() { set_gradient_checkpointing(true); }
  /// Disables gradient checkpointing.
  void disable_gradient_checkpointing() { set_gradient_checkpointing(false); }
  /// @return true if gradient checkpointing is enabled
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

 private:
  friend class ModelImpl<UNet2DModelImpl, UNet2DModelConfig>;
  void copy_settings(const UNet2DModelImpl& other) {
    set_gradient_checkpointing(other.gradient_checkpointing_);
  }
  void set_gradient_checkpointing(bool enabled);
  void build_time_embedding();
  void build_blocks();
  Tensor broadcast_timesteps(const Tensor& timesteps, const Tensor& sample) const;
  Tensor project_time(const Tensor& timesteps) const;
  Tensor embed_class(const Tensor& class_labels, const Tensor& sample) const;

  bool gradient_checkpointing_ = false;
  int64_t time_embed_dim_ = 0;
  layers::Conv2d conv_in_{nullptr};
  GaussianFourierProjection time_proj_fourier_{nullptr};
  layers::Embedding time_proj_learned_{nullptr};
  TimestepEmbedding time_embedding_{nullptr};
  layers::Embedding class_table_{nullptr};
  TimestepEmbedding class_timestep_{nullptr};
  layers::ModuleVector<UNetBlockPointer> down_blocks_;
  UNetMidBlock2D mid_block_{nullptr};
  layers::ModuleVector<UNetBlockPointer> up_blocks_;
  layers::GroupNorm conv_norm_out_{nullptr};
  layers::Conv2d conv_out_{nullptr};
};

/// A handle of a `UNet2DModelImpl`: `UNet2DModel unet({.sample_size = 28, .in_channels = 1});`
using UNet2DModel = ModelHolder<UNet2DModelImpl, UNet2DModelConfig>;

}  // namespace diffusers
