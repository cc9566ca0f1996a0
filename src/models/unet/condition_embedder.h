#pragma once

// The embeddings of timesteps, class labels, texts and images that UNet2DConditionModel and ControlNetModel
// compute before their blocks.

#include <cstdint>
#include <optional>
#include <string>

#include <diffusers/models/condition_embeddings.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/models/embeddings.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/unet_enums.h>

#include "core/json.h"

namespace diffusers {
inline namespace internal {

struct ConditionEmbedderOptions {
  int64_t channels = 0;        ///< number of sinusoidal features of a timestep
  int64_t time_embed_dim = 0;  ///< width of all embeddings
  bool flip_sin_to_cos = true;
  int64_t freq_shift = 0;
  bool fourier = false;  ///< use random features instead of sinusoidal ones
  layers::Activation act_fn = layers::Activation::kSilu;
  layers::Activation class_act_fn = layers::Activation::kSilu;
  std::optional<layers::Activation> timestep_post_act = std::nullopt;
  std::optional<int64_t> time_cond_proj_dim = std::nullopt;
  int64_t cross_attention_dim = 0;
  std::optional<int64_t> encoder_hid_dim = std::nullopt;
  std::optional<EncoderHidDimType> encoder_hid_dim_type = std::nullopt;
  std::optional<ClassEmbedType> class_embed_type = std::nullopt;
  std::optional<int64_t> num_class_embeds = std::nullopt;
  std::optional<int64_t> projection_class_embeddings_input_dim = std::nullopt;
  std::optional<AdditionEmbedType> addition_embed_type = std::nullopt;
  std::optional<int64_t> addition_time_embed_dim = std::nullopt;
  int64_t addition_embed_type_num_heads = 64;
};

/// Checks these fields of a config.
/// @throws ConfigError naming the field
void check_condition_options(const ConditionEmbedderOptions& options);
/// Checks device and dtype. The attention layers check the shape.
void check_encoder_hidden_states(const Tensor& encoder_hidden_states, const Tensor& sample);

/// The embedding layers. They are registered on their model in Python's order and under Python's names.
class ConditionEmbedder {
 public:
  ConditionEmbedder(const ConditionEmbedderOptions& options, torch::nn::Module& model);

  /// @param times `[B]`
  /// @return `[B, time_embed_dim]`
  Tensor embed_time(const Tensor& times, const Tensor& timestep_cond, const Tensor& sample) const;
  /// @return `[B, time_embed_dim]`, undefined for a model without classes
  Tensor embed_class(const Tensor& class_labels, const Tensor& sample) const;
  /// @return `[B, time_embed_dim]`, undefined for a model without addition_embed_type
  Tensor embed_addition(const Tensor& encoder_hidden_states, const AddedCondKwargs& added,
                        const Tensor& sample) const;
  /// Returns the channels that "image_hint" appends to those of the sample.
  Tensor encode_hint(const AddedCondKwargs& added, const Tensor& sample) const;
  /// Returns the tokens to which the blocks attend.
  Tensor project_encoder(const Tensor& encoder_hidden_states, const AddedCondKwargs& added,
                         const Tensor& sample) const;

 private:
  void build_class_embedding(torch::nn::Module& model);
  void build_addition(torch::nn::Module& model);
  int64_t time_features() const { return options_.fourier ? options_.time_embed_dim : options_.channels; }
  Tensor project_time(const Tensor& times, const Tensor& sample) const;
  Tensor text_time_features(const AddedCondKwargs& added, const Tensor& sample) const;

  ConditionEmbedderOptions options_;
  GaussianFourierProjection time_proj_{nullptr};
  TimestepEmbedding time_embedding_{nullptr};
  layers::Linear text_proj_{nullptr};
  TextImageProjection text_image_proj_{nullptr};
  ImageProjection image_proj_{nullptr};
  layers::Embedding class_table_{nullptr};
  TimestepEmbedding class_embedding_{nullptr};
  layers::Linear class_linear_{nullptr};
  TextTimeEmbedding add_text_{nullptr};
  TextImageTimeEmbedding add_text_image_{nullptr};
  TimestepEmbedding add_text_time_{nullptr};
  ImageTimeEmbedding add_image_{nullptr};
  ImageHintTimeEmbedding add_image_hint_{nullptr};
};

/// Sets encoder_hid_dim_type to "text_proj" if there is an encoder_hid_dim but no type, as Python's
/// constructors do.
template <class Config>
Config with_encoder_hid_dim_type(Config config) {
  if (config.encoder_hid_dim && !config.encoder_hid_dim_type)
    config.encoder_hid_dim_type = EncoderHidDimType::kTextProj;
  return config;
}

/// Does the same in the text of a config that was read.
template <class Config>
void keep_encoder_hid_dim_type(Config& config, std::string& source) {
  if (!config.encoder_hid_dim || config.encoder_hid_dim_type) return;
  config.encoder_hid_dim_type = EncoderHidDimType::kTextProj;
  auto json = Json::parse(source);
  json["encoder_hid_dim_type"] = config.encoder_hid_dim_type->name();
  source = json.dump();
}

}  // namespace internal
}  // namespace diffusers
