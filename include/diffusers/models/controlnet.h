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
#include <diffusers/models/layers.h>
#include <diffusers/models/model.h>
#include <diffusers/models/unet_2d_blocks.h>
#include <diffusers/models/unet_2d_condition.h>

namespace diffusers {

/// The order of the channels of a conditioning image.
enum class ControlNetChannelOrder { kRgb, kBgr };
template <>
struct EnumNames<ControlNetChannelOrder> {
  static constexpr std::string_view kKey = "controlnet_conditioning_channel_order";
  static constexpr std::array<std::pair<ControlNetChannelOrder, std::string_view>, 2> kTable{
      {{ControlNetChannelOrder::kRgb, "rgb"}, {ControlNetChannelOrder::kBgr, "bgr"}}};
};

/// The arguments of Python's `ControlNetModel(...)`, with its defaults. What is not explained here means what
/// it does in `UNet2DConditionModelConfig`.
struct ControlNetModelConfig {
  int64_t in_channels = 4;
  int64_t conditioning_channels = 3;
  bool flip_sin_to_cos = true;
  int64_t freq_shift = 0;
  std::vector<std::string> down_block_types = {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                                               "CrossAttnDownBlock2D", "DownBlock2D"};
  /// UNetMidBlock2DCrossAttn or UNetMidBlock2D; nullopt is refused, as in Python.
  std::optional<std::string> mid_block_type = "UNetMidBlock2DCrossAttn";
  OneOrMany<bool> only_cross_attention = false;
  std::vector<int64_t> block_out_channels = {320, 640, 1280, 1280};
  int64_t layers_per_block = 2;
  int64_t downsample_padding = 1;
  double mid_block_scale_factor = 1;
  std::string act_fn = "silu";
  std::optional<int64_t> norm_num_groups = 32;
  double norm_eps = 1e-5;
  int64_t cross_attention_dim = 1280;
  NestedOneOrMany transformer_layers_per_block = 1;
  std::optional<int64_t> encoder_hid_dim = std::nullopt;
  /// "text_proj" or "text_image_proj". As in Python, the projection is a part of the model that `forward`
  /// does not use.
  std::optional<EnumChoice<EncoderHidDimType>> encoder_hid_dim_type = std::nullopt;
  OneOrMany<int64_t> attention_head_dim = 8;
  OneOrMany<int64_t> num_attention_heads = {};  ///< of the CrossAttn blocks; attention_head_dim by default
  bool use_linear_projection = false;
  std::optional<EnumChoice<ClassEmbedType>> class_embed_type = std::nullopt;  ///< not "simple_projection"
  /// "text", "text_image" or "text_time". As in Python, `forward` does not use "text_image".
  std::optional<EnumChoice<AdditionEmbedType>> addition_embed_type = std::nullopt;
  std::optional<int64_t> addition_time_embed_dim = std::nullopt;
  std::optional<int64_t> num_class_embeds = std::nullopt;
  bool upcast_attention = false;
  EnumChoice<ResnetTimeScaleShift> resnet_time_scale_shift = ResnetTimeScaleShift::kDefault;
  std::optional<int64_t> projection_class_embeddings_input_dim = std::nullopt;
  EnumChoice<ControlNetChannelOrder> controlnet_conditioning_channel_order = ControlNetChannelOrder::kRgb;
  std::vector<int64_t> conditioning_embedding_out_channels = {16, 32, 96, 256};
  bool global_pool_conditions = false;  ///< residuals are averaged over the image
  int64_t addition_embed_type_num_heads = 64;
};

void read_model_config(std::string_view json, std::string_view where, ControlNetModelConfig& config,
                       std::string& source, LoadReport& report);
std::string write_model_config(const ControlNetModelConfig& config, std::string_view source);

/// The optional arguments of Python's `ControlNetModel.forward`.
struct ControlNetModelOptions {
  double conditioning_scale = 1.0;  ///< factor of the residuals
  Tensor class_labels = {};         ///< as `UNet2DConditionModelOptions`
  Tensor timestep_cond = {};        ///< expected undefined: the model has no layer for it
  Tensor attention_mask = {};
  AddedCondKwargs added_cond_kwargs = {};
  bool guess_mode = false;  ///< residuals grow from a tenth of themselves at the full resolution
};

struct ControlNetOutput {
  std::vector<Tensor> down_block_res_samples;  ///< for `down_block_additional_residuals`
  Tensor mid_block_res_sample;                 ///< for `mid_block_additional_residual`
};

/// Brings a conditioning image to the size and the channels of the first hidden states, which it changes by
/// nothing at first.
class ControlNetConditioningEmbeddingImpl : public torch::nn::Module {
 public:
  explicit ControlNetConditioningEmbeddingImpl(int64_t conditioning_embedding_channels,
                                               int64_t conditioning_channels = 3,
                                               std::vector<int64_t> block_out_channels = {16, 32, 96, 256});
  /// @param conditioning `[B, conditioning_channels, 8 H, 8 W]`, with as many halvings as there are steps in
  ///   block_out_channels
  /// @return `[B, conditioning_embedding_channels, H, W]`
  Tensor forward(const Tensor& conditioning) const;

 private:
  layers::Conv2d conv_in_{nullptr};
  layers::ModuleVector<layers::Conv2d> blocks_;
  layers::Conv2d conv_out_{nullptr};
};
TORCH_MODULE(ControlNetConditioningEmbedding);

/// The encoder half of a UNet2DConditionModel that looks at an image besides, and whose outputs are added
/// inside of that UNet (Zhang et al. 2023; diffusers `ControlNetModel`). Its outputs start as zeros.
class ControlNetModelImpl : public ModelImpl<ControlNetModelImpl, ControlNetModelConfig> {
 public:
  static constexpr std::string_view kClassName = "ControlNetModel";

  /// @throws ConfigError naming the key and the value that cannot work
  explicit ControlNetModelImpl(ControlNetModelConfig config = {});
  void reset() override;

  /// @param sample, timesteps, encoder_hidden_states as `UNet2DConditionModel` takes them; the encoder's
  /// hidden
  ///   states are attended to as they are
  /// @param controlnet_cond `[B, conditioning_channels, 8 H, 8 W]`
  /// @throws TensorError naming both sides if a shape, dtype, device or range does not fit, or if an input is
  ///   missing or not expected
  ControlNetOutput forward(const Tensor& sample, const Tensor& timesteps, const Tensor& encoder_hidden_states,
                           const Tensor& controlnet_cond, const ControlNetModelOptions& options = {}) const;
  /// One timestep for all samples.
  ControlNetOutput forward(const Tensor& sample, const at::Scalar& timestep,
                           const Tensor& encoder_hidden_states, const Tensor& controlnet_cond,
                           const ControlNetModelOptions& options = {}) const;

  /// Trades time for memory, as in `UNet2DConditionModel`.
  void enable_gradient_checkpointing() { set_gradient_checkpointing(true); }
  void disable_gradient_checkpointing() { set_gradient_checkpointing(false); }
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

 private:
  friend class ModelImpl<ControlNetModelImpl, ControlNetModelConfig>;
  void copy_settings(const ControlNetModelImpl& other) {
    set_gradient_checkpointing(other.gradient_checkpointing_);
  }
  void set_gradient_checkpointing(bool enabled);
  void build_blocks();
  Tensor embed(const Tensor& sample, const Tensor& times, const Tensor& encoder_hidden_states,
               const ControlNetModelOptions& options) const;
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

/// The optional arguments of Python's `ControlNetModel.from_unet`.
struct ControlNetFromUnetOptions {
  EnumChoice<ControlNetChannelOrder> controlnet_conditioning_channel_order = ControlNetChannelOrder::kRgb;
  std::vector<int64_t> conditioning_embedding_out_channels = {16, 32, 96, 256};
  bool load_weights_from_unet = true;
  int64_t conditioning_channels = 3;
};

/// `ControlNetModel controlnet = ControlNetModel::from_unet(unet);`
class ControlNetModel : public ModelHolder<ControlNetModelImpl, ControlNetModelConfig> {
 public:
  using Base = ModelHolder<ControlNetModelImpl, ControlNetModelConfig>;
  using Base::Base;
  ControlNetModel() = default;
  ControlNetModel(Base model) : Base(std::move(model)) {}  // NOLINT(google-explicit-constructor)

  /// As of all models.
  static ControlNetModel from_config(std::string_view json) { return Base::from_config(json); }
  static ControlNetModel from_pretrained(const std::filesystem::path& folder,
                                         const ModelLoadOptions& options = {}) {
    return Base::from_pretrained(folder, options);
  }
  /// A new ControlNet for a UNet, with the UNet's config and, unless told otherwise, its weights.
  /// @throws ConfigError naming the key and the value of the UNet's config that a ControlNet does not have
  static ControlNetModel from_unet(const UNet2DConditionModel& unet,
                                   const ControlNetFromUnetOptions& options = {});
};

}  // namespace diffusers
