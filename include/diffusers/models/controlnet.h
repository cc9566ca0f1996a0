#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/one_or_many.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/models/fwd.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/lora.h>
#include <diffusers/models/model.h>
#include <diffusers/models/unet_2d_blocks.h>
#include <diffusers/models/unet_enums.h>

namespace diffusers {

/// Order of the channels of a conditioning image.
enum class ControlNetChannelOrder {
  kRgb,  ///< red, green, blue
  kBgr   ///< blue, green, red; the model reverses the channels
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<ControlNetChannelOrder> {
  static constexpr std::string_view kKey = "controlnet_conditioning_channel_order";
  static constexpr std::array<std::pair<ControlNetChannelOrder, std::string_view>, 2> kTable{
      {{ControlNetChannelOrder::kRgb, "rgb"}, {ControlNetChannelOrder::kBgr, "bgr"}}};
};

/// The arguments of Python's `ControlNetModel(...)`, with its defaults. Fields of the same name in
/// `UNet2DConditionModelConfig` have the same meaning.
struct ControlNetModelConfig {
  int64_t in_channels = 4;            ///< channels of the sample
  int64_t conditioning_channels = 3;  ///< channels of the conditioning image
  bool flip_sin_to_cos = true;        ///< cosines precede sines in the time embedding
  int64_t freq_shift = 0;             ///< downscale_freq_shift of the time embedding
  /// Types of the down blocks, from the full resolution to the lowest.
  std::vector<std::string> down_block_types = {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                                               "CrossAttnDownBlock2D", "DownBlock2D"};
  /// UNetMidBlock2DCrossAttn or UNetMidBlock2D; nullopt is refused, as in Python.
  std::optional<std::string> mid_block_type = "UNetMidBlock2DCrossAttn";
  /// Leaves out self-attention; one for all blocks or one each.
  OneOrMany<bool> only_cross_attention = false;
  std::vector<int64_t> block_out_channels = {320, 640, 1280, 1280};  ///< output channels of each down block
  int64_t layers_per_block = 2;                                      ///< residual blocks of each down block
  int64_t downsample_padding = 1;     ///< padding of convolutions that downsample; 0: below and right only
  double mid_block_scale_factor = 1;  ///< divisor of the mid block's outputs
  std::string act_fn = "silu";        ///< "silu" ("swish"), "mish", "gelu", "relu"
  std::optional<int64_t> norm_num_groups = 32;  ///< groups of the group norms
  double norm_eps = 1e-5;                       ///< epsilon of the group norms
  int64_t cross_attention_dim = 1280;           ///< width of encoder_hidden_states
  /// Transformer blocks: one number for all, one for each block, or one for each layer of each block.
  NestedOneOrMany transformer_layers_per_block = 1;
  std::optional<int64_t> encoder_hid_dim = std::nullopt;  ///< width of the input of the encoder projection
  /// "text_proj" or "text_image_proj". As in Python, the projection has weights, but `forward` does not use
  /// it.
  std::optional<EnumChoice<EncoderHidDimType>> encoder_hid_dim_type = std::nullopt;
  /// Number of heads in CrossAttn blocks, channels of a head in all others.
  OneOrMany<int64_t> attention_head_dim = 8;
  /// Heads of the CrossAttn blocks; attention_head_dim by default.
  OneOrMany<int64_t> num_attention_heads = {};
  /// Linear layers instead of 1x1 convolutions around transformer blocks.
  bool use_linear_projection = false;
  /// As in the UNet, without "simple_projection".
  std::optional<EnumChoice<ClassEmbedType>> class_embed_type = std::nullopt;
  /// "text", "text_image" or "text_time". As in Python, `forward` does not use "text_image".
  std::optional<EnumChoice<AdditionEmbedType>> addition_embed_type = std::nullopt;
  std::optional<int64_t> addition_time_embed_dim = std::nullopt;  ///< width of the embedding of each time id
  std::optional<int64_t> num_class_embeds = std::nullopt;  ///< number of classes; nullopt: no class table
  bool upcast_attention = false;                           ///< has no effect, as in UNet2DConditionModel
  /// Use of the time embedding in residual blocks.
  EnumChoice<ResnetTimeScaleShift> resnet_time_scale_shift = ResnetTimeScaleShift::kDefault;
  /// Width of class_labels for "projection", and of the concatenated input of "text_time".
  std::optional<int64_t> projection_class_embeddings_input_dim = std::nullopt;
  /// Order of the channels of the conditioning image.
  EnumChoice<ControlNetChannelOrder> controlnet_conditioning_channel_order = ControlNetChannelOrder::kRgb;
  /// Channels of the steps of the image embedding; each after the first halves the resolution.
  std::vector<int64_t> conditioning_embedding_out_channels = {16, 32, 96, 256};
  bool global_pool_conditions = false;  ///< averages the residuals over the image
  /// Heads of the attention pooling of addition_embed_type "text".
  int64_t addition_embed_type_num_heads = 64;
};

/// Reads a config from the text of a config.json, with Python's semantics.
/// @param json the text
/// @param where path of the file, for messages
/// @param config receives the fields
/// @param source receives the JSON that was read
/// @param report receives the unknown keys
/// @throws ConfigError naming the key and the value that does not fit
/// @throws FileError if the text is not JSON
void read_model_config(std::string_view json, std::string_view where, ControlNetModelConfig& config,
                       std::string& source, LoadReport& report);
/// Writes the text of a config.json as Python does.
/// @param config the fields
/// @param source the JSON that was read, whose unknown keys are kept; empty if there was none
/// @return the text
std::string write_model_config(const ControlNetModelConfig& config, std::string_view source);

/// The optional arguments of `ControlNetModel::forward`.
struct ControlNetModelForwardOptions {
  double conditioning_scale = 1.0;         ///< factor of the residuals
  Tensor class_labels = {};                ///< as in `UNet2DConditionModelForwardOptions`
  Tensor timestep_cond = {};               ///< must be undefined: the model has no layer for it
  Tensor attention_mask = {};              ///< `[B, L]`, as in `UNet2DConditionModelForwardOptions`
  AddedCondKwargs added_cond_kwargs = {};  ///< inputs of the addition_embed_type
  bool guess_mode = false;                 ///< scales the residuals by 0.1 (full resolution) to 1 (mid block)
};

/// The result of `ControlNetModel::forward`.
struct ControlNetOutput {
  std::vector<Tensor> down_block_res_samples;  ///< for `down_block_additional_residuals`
  Tensor mid_block_res_sample;                 ///< for `mid_block_additional_residual`
};

/// Convolutions that reduce a conditioning image to the size and the channels of the first hidden states. The
/// last convolution is zero-initialised, so the image has no effect at the start of training (diffusers
/// `ControlNetConditioningEmbedding`).
class ControlNetConditioningEmbeddingImpl : public torch::nn::Module {
 public:
  /// Makes the convolutions.
  /// @param conditioning_embedding_channels channels of the result
  /// @param conditioning_channels channels of the image
  /// @param block_out_channels channels of the steps; each after the first halves the resolution
  explicit ControlNetConditioningEmbeddingImpl(int64_t conditioning_embedding_channels,
                                               int64_t conditioning_channels = 3,
                                               std::vector<int64_t> block_out_channels = {16, 32, 96, 256});
  /// Embeds an image.
  /// @param conditioning `[B, conditioning_channels, 8 H, 8 W]`; the factor 8 is that of the default
  ///   block_out_channels
  /// @return `[B, conditioning_embedding_channels, H, W]`
  Tensor forward(const Tensor& conditioning) const;

 private:
  layers::Conv2d conv_in_{nullptr};
  layers::ModuleVector<layers::Conv2d> blocks_;
  layers::Conv2d conv_out_{nullptr};
};
/// A handle of a `ControlNetConditioningEmbeddingImpl`.
TORCH_MODULE(ControlNetConditioningEmbedding);

inline namespace internal {
class ConditionEmbedder;
}  // namespace internal

/// The encoder half of a UNet2DConditionModel with a conditioning image as an additional input. Its outputs
/// are residuals that are added inside the UNet (Zhang et al. 2023; diffusers `ControlNetModel`). They are
/// zero at the start of training.
class ControlNetModelImpl : public ModelImpl<ControlNetModelImpl, ControlNetModelConfig>,
                            public PeftAdapterMixin<ControlNetModelImpl> {
 public:
  static constexpr std::string_view kClassName = "ControlNetModel";  ///< class name in config.json
  using ForwardOptions = ControlNetModelForwardOptions;              ///< optional arguments of `forward`

  /// Makes a model with new weights.
  /// @param config the arguments of the model
  /// @throws ConfigError naming the key and the value that is not supported
  explicit ControlNetModelImpl(ControlNetModelConfig config = {});
  /// Builds the layers again with new weights.
  void reset() override;

  /// Computes the residuals for a UNet.
  /// @param sample `[B, in_channels, H, W]`, dtype and device of the model
  /// @param timesteps `[B]`, `[1]` or 0-dim; integral or floating
  /// @param encoder_hidden_states `[B, S, cross_attention_dim]`
  /// @param controlnet_cond conditioning image `[B, conditioning_channels, 8 H, 8 W]`
  /// @param options the other inputs
  /// @return the residuals
  /// @throws TensorError naming both sides if a shape, dtype, device or range does not fit, or if an input is
  ///   missing or not expected
  ControlNetOutput forward(const Tensor& sample, const Tensor& timesteps, const Tensor& encoder_hidden_states,
                           const Tensor& controlnet_cond,
                           const ControlNetModelForwardOptions& options = {}) const;
  /// Computes the residuals with one timestep for all samples.
  /// @param sample as above
  /// @param timestep the timestep
  /// @param encoder_hidden_states as above
  /// @param controlnet_cond as above
  /// @param options the other inputs
  /// @return the residuals
  /// @throws TensorError as above
  ControlNetOutput forward(const Tensor& sample, const at::Scalar& timestep,
                           const Tensor& encoder_hidden_states, const Tensor& controlnet_cond,
                           const ControlNetModelForwardOptions& options = {}) const;

  /// Recomputes residual and transformer blocks in the backward pass instead of keeping their intermediate
  /// results. Saves memory and costs time. Values and gradients stay the same.
  void enable_gradient_checkpointing() { set_gradient_checkpointing(true); }
  /// Disables gradient checkpointing.
  void disable_gradient_checkpointing() { set_gradient_checkpointing(false); }
  /// @return true if gradient checkpointing is enabled
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

 private:
  friend class ModelImpl<ControlNetModelImpl, ControlNetModelConfig>;
  void copy_settings(const ControlNetModelImpl& other) {
    set_gradient_checkpointing(other.gradient_checkpointing_);
  }
  void set_gradient_checkpointing(bool enabled);
  void build_blocks();
  Tensor embed(const Tensor& sample, const Tensor& times, const Tensor& encoder_hidden_states,
               const ControlNetModelForwardOptions& options) const;
  Tensor encode_condition(const Tensor& controlnet_cond, const Tensor& sample, const Tensor& hidden) const;

  bool gradient_checkpointing_ = false;
  layers::Conv2d conv_in_{nullptr};
  std::shared_ptr<ConditionEmbedder> embedder_;
  ControlNetConditioningEmbedding controlnet_cond_embedding_{nullptr};
  layers::ModuleVector<UNetBlockPointer> down_blocks_;
  layers::ModuleVector<layers::Conv2d> controlnet_down_blocks_;
  layers::Conv2d controlnet_mid_block_{nullptr};
  UNetBlockPointer mid_block_;
};

/// The optional arguments of `ControlNetModel::from_unet`.
struct ControlNetFromUnetOptions {
  /// Order of the channels of the conditioning image.
  EnumChoice<ControlNetChannelOrder> controlnet_conditioning_channel_order = ControlNetChannelOrder::kRgb;
  /// Channels of the steps of the image embedding.
  std::vector<int64_t> conditioning_embedding_out_channels = {16, 32, 96, 256};
  bool load_weights_from_unet = true;  ///< copies the weights that both models have
  int64_t conditioning_channels = 3;   ///< channels of the conditioning image
};

/// A handle of a `ControlNetModelImpl`: `ControlNetModel controlnet = ControlNetModel::from_unet(unet);`
class ControlNetModel : public ModelHolder<ControlNetModelImpl, ControlNetModelConfig> {
 public:
  using Base = ModelHolder<ControlNetModelImpl, ControlNetModelConfig>;  ///< the common part of all handles
  using Base::Base;
  /// Makes a model with the default config.
  ControlNetModel() = default;
  /// Converts from the base class.
  /// @param model a handle of a ControlNetModelImpl
  ControlNetModel(Base model) : Base(std::move(model)) {}  // NOLINT(google-explicit-constructor)

  /// Makes a model with new weights, as `ModelHolder::from_config`.
  /// @param json text of a config.json
  /// @return the model
  /// @throws ConfigError naming the key and the value that is not supported
  static ControlNetModel from_config(std::string_view json) { return Base::from_config(json); }
  /// Loads a model, as `ModelHolder::from_pretrained`.
  /// @param folder a model folder
  /// @param options subfolder, variant, dtype and device
  /// @return the model, in eval mode
  /// @throws FileError if a file is missing or damaged
  static ControlNetModel from_pretrained(const std::filesystem::path& folder,
                                         const ModelLoadOptions& options = {}) {
    return Base::from_pretrained(folder, options);
  }
  /// Makes a ControlNet for a UNet, with the UNet's config and, by default, its weights.
  /// @param unet the UNet
  /// @param options differences from the UNet
  /// @return the ControlNet
  /// @throws ConfigError naming the key and the value of the UNet's config that a ControlNet does not support
  static ControlNetModel from_unet(const UNet2DConditionModel& unet,
                                   const ControlNetFromUnetOptions& options = {});
};

}  // namespace diffusers
