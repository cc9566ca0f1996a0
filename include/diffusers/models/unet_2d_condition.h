#pragma once

#include <array>
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
#include <diffusers/models/model.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_blocks.h>

namespace diffusers {

/// What a model makes of the encoder's hidden states, and of `image_embeds`, before its blocks attend to
/// them.
enum class EncoderHidDimType { kTextProj, kTextImageProj, kImageProj };
template <>
struct EnumNames<EncoderHidDimType> {
  static constexpr std::string_view kKey = "encoder_hid_dim_type";
  static constexpr std::array<std::pair<EncoderHidDimType, std::string_view>, 3> kTable{
      {{EncoderHidDimType::kTextProj, "text_proj"},
       {EncoderHidDimType::kTextImageProj, "text_image_proj"},
       {EncoderHidDimType::kImageProj, "image_proj"}}};
};

/// What is added to the time embedding, made of the encoder's hidden states ("text") or of
/// `added_cond_kwargs`.
enum class AdditionEmbedType { kText, kTextImage, kTextTime, kImage, kImageHint };
template <>
struct EnumNames<AdditionEmbedType> {
  static constexpr std::string_view kKey = "addition_embed_type";
  static constexpr std::array<std::pair<AdditionEmbedType, std::string_view>, 5> kTable{
      {{AdditionEmbedType::kText, "text"},
       {AdditionEmbedType::kTextImage, "text_image"},
       {AdditionEmbedType::kTextTime, "text_time"},
       {AdditionEmbedType::kImage, "image"},
       {AdditionEmbedType::kImageHint, "image_hint"}}};
};

/// The kinds of transformer blocks. The gated ones (GLIGEN) are refused with a ConfigError.
enum class TransformerAttentionType { kDefault, kGated, kGatedTextImage };
template <>
struct EnumNames<TransformerAttentionType> {
  static constexpr std::string_view kKey = "attention_type";
  static constexpr std::array<std::pair<TransformerAttentionType, std::string_view>, 3> kTable{
      {{TransformerAttentionType::kDefault, "default"},
       {TransformerAttentionType::kGated, "gated"},
       {TransformerAttentionType::kGatedTextImage, "gated-text-image"}}};
};

/// The arguments of Python's `UNet2DConditionModel(...)`, with its defaults.
struct UNet2DConditionModelConfig {
  OneOrMany<int64_t> sample_size = {};  ///< height and width, one number or two; only pipelines use it
  int64_t in_channels = 4;
  int64_t out_channels = 4;
  bool center_input_sample = false;  ///< the input is in [0, 1] and becomes 2 x - 1
  bool flip_sin_to_cos = true;
  int64_t freq_shift = 0;
  /// From the full resolution to the lowest: DownBlock2D, ResnetDownsampleBlock2D, AttnDownBlock2D,
  /// CrossAttnDownBlock2D, SimpleCrossAttnDownBlock2D, KDownBlock2D, KCrossAttnDownBlock2D.
  std::vector<std::string> down_block_types = {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                                               "CrossAttnDownBlock2D", "DownBlock2D"};
  /// UNetMidBlock2DCrossAttn, UNetMidBlock2DSimpleCrossAttn, UNetMidBlock2D, or nullopt for none.
  std::optional<std::string> mid_block_type = "UNetMidBlock2DCrossAttn";
  /// From the lowest resolution to the full: UpBlock2D, ResnetUpsampleBlock2D, AttnUpBlock2D,
  /// CrossAttnUpBlock2D, SimpleCrossAttnUpBlock2D, KUpBlock2D, KCrossAttnUpBlock2D.
  std::vector<std::string> up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
                                             "CrossAttnUpBlock2D"};
  OneOrMany<bool> only_cross_attention = false;  ///< no attention of the image to itself
  std::vector<int64_t> block_out_channels = {320, 640, 1280, 1280};
  OneOrMany<int64_t> layers_per_block = 2;
  int64_t downsample_padding = 1;  ///< 0 pads below and to the right only
  double mid_block_scale_factor = 1;
  double dropout = 0.0;                         ///< of the residual blocks
  std::string act_fn = "silu";                  ///< "silu" ("swish"), "mish", "gelu", "relu"
  std::optional<int64_t> norm_num_groups = 32;  ///< nullopt: K blocks only, and no norm before conv_out
  double norm_eps = 1e-5;
  OneOrMany<int64_t> cross_attention_dim = 1280;
  NestedOneOrMany transformer_layers_per_block = 1;  ///< of each block, or of each layer of each block
  NestedOneOrMany reverse_transformer_layers_per_block = {};  ///< of the up blocks, where they differ
  std::optional<int64_t> encoder_hid_dim =
      std::nullopt;  ///< width of encoder_hidden_states (or image_embeds)
  std::optional<EnumChoice<EncoderHidDimType>> encoder_hid_dim_type = std::nullopt;
  /// The number of heads in CrossAttn blocks, the channels of a head in the others.
  OneOrMany<int64_t> attention_head_dim = 8;
  OneOrMany<int64_t> num_attention_heads = {};  ///< refused, as in Python: attention_head_dim stands for it
  bool dual_cross_attention = false;
  bool use_linear_projection = false;
  std::optional<EnumChoice<ClassEmbedType>> class_embed_type = std::nullopt;
  std::optional<EnumChoice<AdditionEmbedType>> addition_embed_type = std::nullopt;
  std::optional<int64_t> addition_time_embed_dim = std::nullopt;
  std::optional<int64_t> num_class_embeds = std::nullopt;
  /// Without effect, as in Python since its attention is fused: scores are always accumulated in float32.
  bool upcast_attention = false;
  EnumChoice<ResnetTimeScaleShift> resnet_time_scale_shift = ResnetTimeScaleShift::kDefault;
  bool resnet_skip_time_act = false;     ///< of the Resnet and SimpleCrossAttn blocks
  double resnet_out_scale_factor = 1.0;  ///< of the Resnet and SimpleCrossAttn blocks
  EnumChoice<TimeEmbeddingType> time_embedding_type = TimeEmbeddingType::kPositional;  ///< not "learned"
  std::optional<int64_t> time_embedding_dim = std::nullopt;
  std::optional<std::string> time_embedding_act_fn = std::nullopt;
  std::optional<std::string> timestep_post_act = std::nullopt;
  std::optional<int64_t> time_cond_proj_dim = std::nullopt;  ///< width of timestep_cond
  int64_t conv_in_kernel = 3;
  int64_t conv_out_kernel = 3;
  std::optional<int64_t> projection_class_embeddings_input_dim = std::nullopt;
  EnumChoice<TransformerAttentionType> attention_type = TransformerAttentionType::kDefault;
  bool class_embeddings_concat = false;  ///< behind the time embedding instead of added to it
  std::optional<bool> mid_block_only_cross_attention = std::nullopt;
  std::optional<EnumChoice<CrossAttentionNorm>> cross_attention_norm =
      std::nullopt;  ///< of SimpleCrossAttn blocks
  int64_t addition_embed_type_num_heads = 64;
};

void read_model_config(std::string_view json, std::string_view where, UNet2DConditionModelConfig& config,
                       std::string& source, LoadReport& report);
std::string write_model_config(const UNet2DConditionModelConfig& config, std::string_view source);

/// The optional arguments of Python's `UNet2DConditionModel.forward`.
struct UNet2DConditionModelOptions {
  /// `[B]` integral for `num_class_embeds`; `[B]` for "timestep"; `[B, time_embedding_dim]` for "identity";
  /// `[B, projection_class_embeddings_input_dim]` for the projections.
  Tensor class_labels = {};
  Tensor timestep_cond = {};  ///< `[B, time_cond_proj_dim]`
  /// `[B, L]`, 1 (or true) where a token of the image takes part in the attention of the image to itself. The
  /// SimpleCrossAttn blocks take it for the encoder's tokens.
  Tensor attention_mask = {};
  AddedCondKwargs added_cond_kwargs = {};
  /// Added to what the down blocks leave for the up blocks (ControlNet); goes with
  /// mid_block_additional_residual. By itself it is taken for down_intrablock_additional_residuals, with a
  /// warning, as in Python.
  std::vector<Tensor> down_block_additional_residuals = {};
  Tensor mid_block_additional_residual = {};
  std::vector<Tensor> down_intrablock_additional_residuals = {};  ///< one for each down block (T2I-Adapter)
  Tensor encoder_attention_mask = {};  ///< `[B, S]`, 1 (or true) where a token of the encoder takes part
};

struct UNet2DConditionOutput {
  Tensor sample;  ///< `[B, out_channels, H, W]`
};

class ConditionEmbedder;

/// The UNet of text-conditional diffusion (Rombach et al. 2022, Podell et al. 2023, and others; diffusers
/// `UNet2DConditionModel`). Parameters have Python's state-dict names, and are drawn in Python's order.
class UNet2DConditionModelImpl : public ModelImpl<UNet2DConditionModelImpl, UNet2DConditionModelConfig> {
 public:
  static constexpr std::string_view kClassName = "UNet2DConditionModel";

  /// @throws ConfigError naming the key and the value that cannot work
  explicit UNet2DConditionModelImpl(UNet2DConditionModelConfig config = {});
  void reset() override;

  /// @param sample `[B, in_channels, H, W]`, dtype and device of the model (for "image_hint", four channels
  ///   fewer)
  /// @param timesteps `[B]`, `[1]` or 0-dim; integral or floating
  /// @param encoder_hidden_states `[B, S, cross_attention_dim]`, or `[B, S, encoder_hid_dim]` where the model
  ///   projects them; undefined for a model that does not attend to them
  /// @throws TensorError naming both sides if a shape, dtype, device or range does not fit, or if an input is
  ///   missing or not expected
  UNet2DConditionOutput forward(const Tensor& sample, const Tensor& timesteps,
                                const Tensor& encoder_hidden_states,
                                const UNet2DConditionModelOptions& options = {}) const;
  /// One timestep for all samples.
  UNet2DConditionOutput forward(const Tensor& sample, const at::Scalar& timestep,
                                const Tensor& encoder_hidden_states,
                                const UNet2DConditionModelOptions& options = {}) const;

  /// Trades time for memory: residual and transformer blocks run again in the backward instead of keeping
  /// their intermediate results. Values and gradients stay the same.
  void enable_gradient_checkpointing() { set_gradient_checkpointing(true); }
  void disable_gradient_checkpointing() { set_gradient_checkpointing(false); }
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

  /// Changes the shares of hidden states and residuals in the first two up blocks, as Python's method does.
  void enable_freeu(double s1, double s2, double b1, double b2);
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
                  const UNet2DConditionModelOptions& options) const;
  void run_blocks(UNetState& state, const UNet2DConditionModelOptions& options) const;

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

/// `UNet2DConditionModel unet({.sample_size = 64, .cross_attention_dim = 768});`
using UNet2DConditionModel = ModelHolder<UNet2DConditionModelImpl, UNet2DConditionModelConfig>;

}  // namespace diffusers
