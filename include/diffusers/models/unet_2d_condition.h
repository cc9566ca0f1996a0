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
#include <diffusers/models/attention_layer.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/lora.h>
#include <diffusers/models/model.h>
#include <diffusers/models/unet_2d_blocks.h>
#include <diffusers/models/unet_enums.h>

namespace diffusers {

/// The arguments of Python's `UNet2DConditionModel(...)`, with its defaults.
struct UNet2DConditionModelConfig {
  OneOrMany<int64_t> sample_size = {};  ///< height and width of samples (one or two numbers), for pipelines
  int64_t in_channels = 4;              ///< channels of the sample
  int64_t out_channels = 4;             ///< channels of the prediction
  bool center_input_sample = false;     ///< maps the sample from [0, 1] to [-1, 1]
  bool flip_sin_to_cos = true;          ///< cosines precede sines in the time embedding
  int64_t freq_shift = 0;               ///< downscale_freq_shift of the time embedding
  /// Types of the down blocks, from the full resolution to the lowest: DownBlock2D, ResnetDownsampleBlock2D,
  /// AttnDownBlock2D, CrossAttnDownBlock2D, SimpleCrossAttnDownBlock2D, KDownBlock2D, KCrossAttnDownBlock2D.
  std::vector<std::string> down_block_types = {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                                               "CrossAttnDownBlock2D", "DownBlock2D"};
  /// UNetMidBlock2DCrossAttn, UNetMidBlock2DSimpleCrossAttn, UNetMidBlock2D, or nullopt for none.
  std::optional<std::string> mid_block_type = "UNetMidBlock2DCrossAttn";
  /// Types of the up blocks, from the lowest resolution to the full: UpBlock2D, ResnetUpsampleBlock2D,
  /// AttnUpBlock2D, CrossAttnUpBlock2D, SimpleCrossAttnUpBlock2D, KUpBlock2D, KCrossAttnUpBlock2D.
  std::vector<std::string> up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
                                             "CrossAttnUpBlock2D"};
  /// Leaves out self-attention; one for all blocks or one each.
  OneOrMany<bool> only_cross_attention = false;
  std::vector<int64_t> block_out_channels = {320, 640, 1280, 1280};  ///< output channels of each down block
  OneOrMany<int64_t> layers_per_block = 2;  ///< residual blocks of each down block; one for all or one each
  int64_t downsample_padding = 1;     ///< padding of convolutions that downsample; 0: below and right only
  double mid_block_scale_factor = 1;  ///< divisor of the mid block's outputs
  double dropout = 0.0;               ///< dropout probability in residual blocks
  std::string act_fn = "silu";        ///< "silu" ("swish"), "mish", "gelu", "relu"
  /// Groups of the group norms. nullopt is supported with K blocks only; the model then has no norm before
  /// conv_out.
  std::optional<int64_t> norm_num_groups = 32;
  double norm_eps = 1e-5;  ///< epsilon of the group norms
  /// Width of encoder_hidden_states; one for all blocks or one each.
  OneOrMany<int64_t> cross_attention_dim = 1280;
  /// Transformer blocks: one number for all, one for each block, or one for each layer of each block.
  NestedOneOrMany transformer_layers_per_block = 1;
  /// Transformer blocks of the up blocks, from the lowest resolution to the full. Empty: the reverse of
  /// transformer_layers_per_block.
  NestedOneOrMany reverse_transformer_layers_per_block = {};
  std::optional<int64_t> encoder_hid_dim = std::nullopt;  ///< width of the input of the encoder projection
  /// Projection of encoder_hidden_states. "text_proj" if encoder_hid_dim is given, none otherwise.
  std::optional<EnumChoice<EncoderHidDimType>> encoder_hid_dim_type = std::nullopt;
  /// Number of heads in CrossAttn blocks, channels of a head in all others. Python keeps this name for
  /// compatibility.
  OneOrMany<int64_t> attention_head_dim = 8;
  /// Refused unless empty, as in Python; use attention_head_dim.
  OneOrMany<int64_t> num_attention_heads = {};
  bool dual_cross_attention = false;  ///< uses DualTransformer2DModel (Versatile Diffusion)
  /// Linear layers instead of 1x1 convolutions around transformer blocks.
  bool use_linear_projection = false;
  std::optional<EnumChoice<ClassEmbedType>> class_embed_type = std::nullopt;  ///< embedding of class_labels
  /// Embedding that is added to the time embedding.
  std::optional<EnumChoice<AdditionEmbedType>> addition_embed_type = std::nullopt;
  std::optional<int64_t> addition_time_embed_dim = std::nullopt;  ///< width of the embedding of each time id
  std::optional<int64_t> num_class_embeds = std::nullopt;  ///< number of classes; nullopt: no class table
  /// Has no effect, as in Python with fused attention, which accumulates the scores in float32.
  bool upcast_attention = false;
  /// Use of the time embedding in residual blocks.
  EnumChoice<ResnetTimeScaleShift> resnet_time_scale_shift = ResnetTimeScaleShift::kDefault;
  /// No activation on the time embedding in Resnet and SimpleCrossAttn blocks.
  bool resnet_skip_time_act = false;
  double resnet_out_scale_factor = 1.0;  ///< divisor of outputs in Resnet and SimpleCrossAttn blocks
  /// Features of the timestep before the linear layers; "learned" is refused.
  EnumChoice<TimeEmbeddingType> time_embedding_type = TimeEmbeddingType::kPositional;
  std::optional<int64_t> time_embedding_dim = std::nullopt;         ///< default: 4 * block_out_channels[0]
  std::optional<std::string> time_embedding_act_fn = std::nullopt;  ///< activation after the time embedding
  std::optional<std::string> timestep_post_act = std::nullopt;  ///< activation after the second linear layer
  std::optional<int64_t> time_cond_proj_dim = std::nullopt;     ///< width of timestep_cond
  int64_t conv_in_kernel = 3;                                   ///< kernel size of the first convolution
  int64_t conv_out_kernel = 3;                                  ///< kernel size of the last convolution
  /// Width of class_labels for the projections, and of the concatenated input of "text_time".
  std::optional<int64_t> projection_class_embeddings_input_dim = std::nullopt;
  /// Kind of transformer blocks; only "default" is supported.
  EnumChoice<TransformerAttentionType> attention_type = TransformerAttentionType::kDefault;
  bool class_embeddings_concat = false;  ///< concatenates class and time embedding instead of adding them
  /// Leaves out self-attention in the mid block. nullopt: only_cross_attention if that is one value, else
  /// false.
  std::optional<bool> mid_block_only_cross_attention = std::nullopt;
  /// Norm of encoder_hidden_states in SimpleCrossAttn blocks.
  std::optional<EnumChoice<CrossAttentionNorm>> cross_attention_norm = std::nullopt;
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
void read_model_config(std::string_view json, std::string_view where, UNet2DConditionModelConfig& config,
                       std::string& source, LoadReport& report);
/// Writes the text of a config.json as Python does.
/// @param config the fields
/// @param source the JSON that was read, whose unknown keys are kept; empty if there was none
/// @return the text
std::string write_model_config(const UNet2DConditionModelConfig& config, std::string_view source);

/// The optional arguments of `UNet2DConditionModel::forward`.
struct UNet2DConditionModelForwardOptions {
  /// Classes: `[B]` integral for `num_class_embeds`, `[B]` for "timestep", `[B, time_embedding_dim]` for
  /// "identity", `[B, projection_class_embeddings_input_dim]` for the projections.
  Tensor class_labels = {};
  Tensor timestep_cond = {};  ///< `[B, time_cond_proj_dim]`, added to the features of the timestep
  /// `[B, L]`: 0 (or false) excludes a position from self-attention. SimpleCrossAttn blocks apply it to the
  /// encoder's tokens.
  Tensor attention_mask = {};
  AddedCondKwargs added_cond_kwargs = {};  ///< inputs of addition_embed_type and of the image projections
  /// Residuals of a ControlNet, added to those of the down blocks. Without mid_block_additional_residual they
  /// are used as down_intrablock_additional_residuals, with a warning, as in Python.
  std::vector<Tensor> down_block_additional_residuals = {};
  Tensor mid_block_additional_residual = {};  ///< residual of a ControlNet, added to the mid block's output
  /// Features of a T2I-Adapter, one tensor for each down block.
  std::vector<Tensor> down_intrablock_additional_residuals = {};
  /// `[B, S]`: 0 (or false) excludes a token of the encoder from attention.
  Tensor encoder_attention_mask = {};
};

/// The result of `UNet2DConditionModel::forward`.
struct UNet2DConditionOutput {
  Tensor sample;  ///< prediction `[B, out_channels, H, W]`
};

inline namespace internal {
class ConditionEmbedder;
}  // namespace internal

/// The UNet of text-conditional diffusion (Rombach et al. 2022, Podell et al. 2023, and others; diffusers
/// `UNet2DConditionModel`). Parameters have Python's state-dict names and are drawn in Python's order.
class UNet2DConditionModelImpl : public ModelImpl<UNet2DConditionModelImpl, UNet2DConditionModelConfig>,
                                 public PeftAdapterMixin<UNet2DConditionModelImpl> {
 public:
  static constexpr std::string_view kClassName = "UNet2DConditionModel";  ///< class name in config.json
  using ForwardOptions = UNet2DConditionModelForwardOptions;              ///< optional arguments of `forward`

  /// Makes a model with new weights.
  /// @param config the arguments of the model
  /// @throws ConfigError naming the key and the value that is not supported
  explicit UNet2DConditionModelImpl(UNet2DConditionModelConfig config = {});
  /// Builds the layers again with new weights.
  void reset() override;

  /// Predicts from noisy samples.
  /// @param sample `[B, in_channels, H, W]`, dtype and device of the model; with addition_embed_type
  ///   "image_hint" it has four channels fewer
  /// @param timesteps `[B]`, `[1]` or 0-dim; integral or floating
  /// @param encoder_hidden_states `[B, S, cross_attention_dim]`, or `[B, S, encoder_hid_dim]` if the model
  ///   projects them; undefined for a model without cross-attention
  /// @param options the other inputs
  /// @return the prediction `[B, out_channels, H, W]`
  /// @throws TensorError naming both sides if a shape, dtype, device or range does not fit, or if an input is
  ///   missing or not expected
  UNet2DConditionOutput forward(const Tensor& sample, const Tensor& timesteps,
                                const Tensor& encoder_hidden_states,
                                const UNet2DConditionModelForwardOptions& options = {}) const;
  /// Predicts with one timestep for all samples.
  /// @param sample as above
  /// @param timestep the timestep
  /// @param encoder_hidden_states as above
  /// @param options the other inputs
  /// @return the prediction `[B, out_channels, H, W]`
  /// @throws TensorError as above
  UNet2DConditionOutput forward(const Tensor& sample, const at::Scalar& timestep,
                                const Tensor& encoder_hidden_states,
                                const UNet2DConditionModelForwardOptions& options = {}) const;

  /// Recomputes residual and transformer blocks in the backward pass instead of keeping their intermediate
  /// results. Saves memory and costs time. Values and gradients stay the same.
  void enable_gradient_checkpointing() { set_gradient_checkpointing(true); }
  /// Disables gradient checkpointing.
  void disable_gradient_checkpointing() { set_gradient_checkpointing(false); }
  /// @return true if gradient checkpointing is enabled
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

  /// Enables FreeU: scales hidden states and residuals in the first two up blocks (Si et al. 2023).
  /// @param s1 factor of the residuals' low frequencies in the first up block
  /// @param s2 factor of the residuals' low frequencies in the second up block
  /// @param b1 factor of the hidden states in the first up block
  /// @param b2 factor of the hidden states in the second up block
  void enable_freeu(double s1, double s2, double b1, double b2);
  /// Disables FreeU.
  void disable_freeu() { freeu_.reset(); }

 private:
  friend class ModelImpl<UNet2DConditionModelImpl, UNet2DConditionModelConfig>;
  void copy_settings(const UNet2DConditionModelImpl& other) {
    set_gradient_checkpointing(other.gradient_checkpointing_);
    freeu_ = other.freeu_;
  }
  void set_gradient_checkpointing(bool enabled);
  void build_blocks();
  UNetState start(const Tensor& sample, const Tensor& times, const Tensor& encoder_hidden_states,
                  const UNet2DConditionModelForwardOptions& options) const;
  void run_blocks(UNetState& state, const UNet2DConditionModelForwardOptions& options) const;

  bool gradient_checkpointing_ = false;
  layers::Activation act_fn_ = layers::Activation::kSilu;
  std::optional<layers::Activation> time_embedding_act_fn_;
  std::optional<FreeU> freeu_;
  layers::Conv2d conv_in_{nullptr};
  std::shared_ptr<ConditionEmbedder> embedder_;
  layers::ModuleVector<UNetBlockPointer> down_blocks_;
  UNetBlockPointer mid_block_;
  layers::ModuleVector<UNetBlockPointer> up_blocks_;
  layers::GroupNorm conv_norm_out_{nullptr};
  layers::Conv2d conv_out_{nullptr};
};

/// A handle of a `UNet2DConditionModelImpl`: `UNet2DConditionModel unet({.sample_size = 64,
/// .cross_attention_dim = 768});`
using UNet2DConditionModel = ModelHolder<UNet2DConditionModelImpl, UNet2DConditionModelConfig>;

}  // namespace diffusers
