#pragma once

#include <array>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_names.h>

namespace diffusers {

/// Features of a timestep before the linear layers of a UNet's time embedding.
enum class TimeEmbeddingType {
  kPositional,  ///< sines and cosines (Ho et al. 2020)
  kFourier,     ///< random Fourier features of the logarithm, for noise levels (Song et al. 2021)
  kLearned      ///< a learned table, UNet2DModel only
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<TimeEmbeddingType> {
  static constexpr std::string_view kKey = "time_embedding_type";
  static constexpr std::array<std::pair<TimeEmbeddingType, std::string_view>, 3> kTable{
      {{TimeEmbeddingType::kPositional, "positional"},
       {TimeEmbeddingType::kFourier, "fourier"},
       {TimeEmbeddingType::kLearned, "learned"}}};
};

/// Use of `class_labels` in a UNet that has no table of class embeddings (`num_class_embeds`).
enum class ClassEmbedType {
  kTimestep,         ///< embedded like timesteps
  kIdentity,         ///< used as the embedding
  kProjection,       ///< projected by two linear layers; not in UNet2DModel
  kSimpleProjection  ///< projected by one linear layer; UNet2DConditionModel only
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<ClassEmbedType> {
  static constexpr std::string_view kKey = "class_embed_type";
  static constexpr std::array<std::pair<ClassEmbedType, std::string_view>, 4> kTable{
      {{ClassEmbedType::kTimestep, "timestep"},
       {ClassEmbedType::kIdentity, "identity"},
       {ClassEmbedType::kProjection, "projection"},
       {ClassEmbedType::kSimpleProjection, "simple_projection"}}};
};

/// Projection of `encoder_hidden_states` before the blocks attend to them.
enum class EncoderHidDimType {
  kTextProj,       ///< a linear layer
  kTextImageProj,  ///< the text, with tokens of `image_embeds` in front (Kandinsky 2.1)
  kImageProj       ///< tokens of `image_embeds` (Kandinsky 2.2)
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<EncoderHidDimType> {
  static constexpr std::string_view kKey = "encoder_hid_dim_type";
  static constexpr std::array<std::pair<EncoderHidDimType, std::string_view>, 3> kTable{
      {{EncoderHidDimType::kTextProj, "text_proj"},
       {EncoderHidDimType::kTextImageProj, "text_image_proj"},
       {EncoderHidDimType::kImageProj, "image_proj"}}};
};

/// Embedding that is added to the time embedding.
enum class AdditionEmbedType {
  kText,       ///< embedding of `encoder_hidden_states` (DeepFloyd IF)
  kTextImage,  ///< embedding of `text_embeds` and `image_embeds` (Kandinsky 2.1)
  kTextTime,   ///< embedding of `text_embeds` and `time_ids` (Stable Diffusion XL)
  kImage,      ///< embedding of `image_embeds` (Kandinsky 2.2)
  kImageHint   ///< embedding of `image_embeds` and `hint` (Kandinsky 2.2 ControlNet)
};
/// Maps each enumerator to Python's string.
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

/// Kind of transformer blocks. The gated ones (GLIGEN) are refused with a ConfigError.
enum class TransformerAttentionType {
  kDefault,        ///< attention to the image, then to the encoder
  kGated,          ///< not supported
  kGatedTextImage  ///< not supported
};
/// Maps each enumerator to Python's string.
template <>
struct EnumNames<TransformerAttentionType> {
  static constexpr std::string_view kKey = "attention_type";
  static constexpr std::array<std::pair<TransformerAttentionType, std::string_view>, 3> kTable{
      {{TransformerAttentionType::kDefault, "default"},
       {TransformerAttentionType::kGated, "gated"},
       {TransformerAttentionType::kGatedTextImage, "gated-text-image"}}};
};

}  // namespace diffusers
