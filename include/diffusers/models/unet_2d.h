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
#include <diffusers/models/embeddings.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/model.h>
#include <diffusers/models/unet_2d_blocks.h>

namespace diffusers {

/// What a UNet2DModel makes of a timestep before its linear layers: sines and cosines, random Fourier
/// features of its logarithm (for noise levels), or a learned table.
enum class TimeEmbeddingType { kPositional, kFourier, kLearned };
template <>
struct EnumNames<TimeEmbeddingType> {
  static constexpr std::string_view kKey = "time_embedding_type";
  static constexpr std::array<std::pair<TimeEmbeddingType, std::string_view>, 3> kTable{
      {{TimeEmbeddingType::kPositional, "positional"},
       {TimeEmbeddingType::kFourier, "fourier"},
       {TimeEmbeddingType::kLearned, "learned"}}};
};

/// What a UNet does with `class_labels` where it does not look them up in a table (`num_class_embeds`):
/// embeds them as it does timesteps, takes them as the embedding, or projects them by two linear layers or
/// one. The projections are for UNet2DConditionModel only.
enum class ClassEmbedType { kTimestep, kIdentity, kProjection, kSimpleProjection };
template <>
struct EnumNames<ClassEmbedType> {
  static constexpr std::string_view kKey = "class_embed_type";
  static constexpr std::array<std::pair<ClassEmbedType, std::string_view>, 4> kTable{
      {{ClassEmbedType::kTimestep, "timestep"},
       {ClassEmbedType::kIdentity, "identity"},
       {ClassEmbedType::kProjection, "projection"},
       {ClassEmbedType::kSimpleProjection, "simple_projection"}}};
};

/// The arguments of Python's `UNet2DModel(...)`, with its defaults.
struct UNet2DModelConfig {
  OneOrMany<int64_t> sample_size = {};  ///< height and width, one number or two; only pipelines use it
  int64_t in_channels = 3;
  int64_t out_channels = 3;
  bool center_input_sample = false;  ///< the input is in [0, 1] and becomes 2 x - 1
  EnumChoice<TimeEmbeddingType> time_embedding_type = TimeEmbeddingType::kPositional;
  std::optional<int64_t> time_embedding_dim = std::nullopt;  ///< 4 * block_out_channels[0] by default
  int64_t freq_shift = 0;
  bool flip_sin_to_cos = true;
  /// From the full resolution to the lowest: DownBlock2D, ResnetDownsampleBlock2D, AttnDownBlock2D,
  /// SkipDownBlock2D, AttnSkipDownBlock2D, KDownBlock2D.
  std::vector<std::string> down_block_types = {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D",
                                               "AttnDownBlock2D"};
  std::optional<std::string> mid_block_type = "UNetMidBlock2D";  ///< or nullopt for none
  /// From the lowest resolution to the full: UpBlock2D, ResnetUpsampleBlock2D, AttnUpBlock2D, SkipUpBlock2D,
  /// AttnSkipUpBlock2D, KUpBlock2D.
  std::vector<std::string> up_block_types = {"AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"};
  std::vector<int64_t> block_out_channels = {224, 448, 672, 896};
  int64_t layers_per_block = 2;
  double mid_block_scale_factor = 1;
  int64_t downsample_padding = 1;                                      ///< 0 pads below and to the right only
  EnumChoice<DownsampleType> downsample_type = DownsampleType::kConv;  ///< of AttnDownBlock2D
  EnumChoice<UpsampleType> upsample_type = UpsampleType::kConv;        ///< of AttnUpBlock2D
  double dropout = 0.0;
  std::string act_fn = "silu";  ///< "silu" ("swish"), "mish", "gelu", "relu"
  std::optional<int64_t> attention_head_dim =
      8;  ///< channels of a head; nullopt: one head as wide as its block
  std::optional<int64_t> norm_num_groups =
      32;  ///< nullopt: Skip and K blocks only, min(channels / 4, 32) elsewhere
  std::optional<int64_t> attn_norm_num_groups = std::nullopt;
  double norm_eps = 1e-5;
  EnumChoice<ResnetTimeScaleShift> resnet_time_scale_shift = ResnetTimeScaleShift::kDefault;
  bool add_attention = true;                                                  ///< in the mid block
  std::optional<EnumChoice<ClassEmbedType>> class_embed_type = std::nullopt;  ///< "timestep" or "identity"
  std::optional<int64_t> num_class_embeds = std::nullopt;     ///< classes of the table of class embeddings
  std::optional<int64_t> num_train_timesteps = std::nullopt;  ///< rows of the learned time embedding
};

void read_model_config(std::string_view json, std::string_view where, UNet2DModelConfig& config,
                       std::string& source, LoadReport& report);
std::string write_model_config(const UNet2DModelConfig& config, std::string_view source);

struct UNet2DModelOptions {
  /// `[B]` integral for `num_class_embeds`; `[B]` for "timestep"; `[B, time_embedding_dim]` for "identity".
  Tensor class_labels = {};
};

struct UNet2DOutput {
  Tensor sample;  ///< `[B, out_channels, H, W]`
};

/// The UNet of unconditional and class-conditional diffusion (Ho et al. 2020, Song et al. 2021; diffusers
/// `UNet2DModel`). Parameters have Python's state-dict names, and are drawn in Python's order: after
/// `torch::manual_seed(0)` a new model has, bit for bit, the weights that Python's has after
/// `torch.manual_seed(0)`.
class UNet2DModelImpl : public ModelImpl<UNet2DModelImpl, UNet2DModelConfig> {
 public:
  static constexpr std::string_view kClassName = "UNet2DModel";

  /// @throws ConfigError naming the key and the value that cannot work
  explicit UNet2DModelImpl(UNet2DModelConfig config = {});
  void reset() override;

  /// @param sample `[B, in_channels, H, W]`, dtype and device of the model. H and W must halve without
  /// remainder at each
  ///   downsampling.
  /// @param timesteps `[B]`, `[1]` or 0-dim; integral, or floating where they are noise levels or continuous
  /// times
  /// @throws TensorError naming both sides if a shape, dtype, device or range does not fit, or if
  /// class_labels are
  ///   missing or not expected
  UNet2DOutput forward(const Tensor& sample, const Tensor& timesteps,
                       const UNet2DModelOptions& options = {}) const;
  /// One timestep for all samples. As in Python, a fraction is cut off: give a tensor to keep it.
  UNet2DOutput forward(const Tensor& sample, const at::Scalar& timestep,
                       const UNet2DModelOptions& options = {}) const;

  /// Trades time for memory: residual blocks run again in the backward instead of keeping their intermediate
  /// results. Values and gradients stay the same.
  void enable_gradient_checkpointing() { set_gradient_checkpointing(true); }
  void disable_gradient_checkpointing() { set_gradient_checkpointing(false); }
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

/// `UNet2DModel unet({.sample_size = 28, .in_channels = 1});`
using UNet2DModel = ModelHolder<UNet2DModelImpl, UNet2DModelConfig>;

}  // namespace diffusers
