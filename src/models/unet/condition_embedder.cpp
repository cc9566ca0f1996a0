#include "models/unet/condition_embedder.h"

#include <ATen/autocast_mode.h>
#include <torch/types.h>

#include "core/require.h"
#include "models/unet/unet_inputs.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Checks a condition `[B, width]`, or `[B, S, width]` with `tokens`, and returns it in the dtype of the
/// sample.
Tensor fitting_condition(const Tensor& tensor, const char* name, const char* reason, int64_t width,
                         bool tokens, const Tensor& sample) {
  const auto batch = sample.size(0);
  require<TensorError>(tensor.defined() && tensor.is_floating_point() && tensor.dim() == (tokens ? 3 : 2) &&
                           tensor.size(0) == batch && tensor.size(-1) == width,
                       "{}: expected floating [{}{}, {}] for {}, got {}", name, batch, tokens ? ", S" : "",
                       width, reason, describe(tensor));
  require<TensorError>(tensor.device() == sample.device(), "{} are on {}, the sample on {}", name,
                       tensor.device().str(), sample.device().str());
  return tensor.to(sample.scalar_type());
}

Tensor fitting_image_embeds(const AddedCondKwargs& added, const char* reason, int64_t width,
                            const Tensor& sample) {
  return fitting_condition(added.image_embeds, "added_cond_kwargs.image_embeds", reason, width,
                           /*tokens=*/false, sample);
}

}  // namespace

void check_condition_options(const ConditionEmbedderOptions& options) {
  require_positive("encoder_hid_dim", options.encoder_hid_dim);
  require_positive("time_cond_proj_dim", options.time_cond_proj_dim);
  require_positive("num_class_embeds", options.num_class_embeds, INT32_MAX);
  require_positive("projection_class_embeddings_input_dim", options.projection_class_embeddings_input_dim);
  require_positive("addition_time_embed_dim", options.addition_time_embed_dim);
  require_positive("addition_embed_type_num_heads", options.addition_embed_type_num_heads);
  const auto type_name = [](const auto& type) { return type ? enum_name(*type) : "null"; };
  const int64_t half = options.channels / 2;
  require<ConfigError>(
      options.fourier || half == 0 || half != options.freq_shift,
      "freq_shift is {}, which with block_out_channels[0] = {} divides by zero in the time embedding",
      options.freq_shift, options.channels);
  require<ConfigError>(!options.fourier || options.time_embed_dim % 2 == 0,
                       "time_embedding_dim is {}, which time_embedding_type \"fourier\" needs to be even",
                       options.time_embed_dim);
  require<ConfigError>(options.encoder_hid_dim || !options.encoder_hid_dim_type,
                       "encoder_hid_dim_type is \"{}\", which needs encoder_hid_dim",
                       type_name(options.encoder_hid_dim_type));
  require<ConfigError>((options.class_embed_type != ClassEmbedType::kProjection &&
                        options.class_embed_type != ClassEmbedType::kSimpleProjection) ||
                           options.projection_class_embeddings_input_dim,
                       "class_embed_type is \"{}\", which needs projection_class_embeddings_input_dim",
                       type_name(options.class_embed_type));
  const auto addition = options.addition_embed_type;
  if (addition == AdditionEmbedType::kTextTime) {
    require<ConfigError>(
        options.projection_class_embeddings_input_dim && options.addition_time_embed_dim,
        "addition_embed_type is \"text_time\", which needs projection_class_embeddings_input_dim and "
        "addition_time_embed_dim");
    const int64_t half_of_ids = *options.addition_time_embed_dim / 2;
    require<ConfigError>(half_of_ids == 0 || half_of_ids != options.freq_shift,
                         "freq_shift is {}, which with addition_time_embed_dim = {} divides by zero",
                         options.freq_shift, *options.addition_time_embed_dim);
  }
  require<ConfigError>((addition != AdditionEmbedType::kImage && addition != AdditionEmbedType::kImageHint) ||
                           options.encoder_hid_dim,
                       "addition_embed_type is \"{}\", which needs encoder_hid_dim", type_name(addition));
}

ConditionEmbedder::ConditionEmbedder(const ConditionEmbedderOptions& options, torch::nn::Module& model)
    : options_(options) {
  if (options.fourier) {
    time_proj_ =
        model.register_module("time_proj", GaussianFourierProjection(GaussianFourierProjectionOptions{
                                               .embedding_size = options.time_embed_dim / 2,
                                               .set_W_to_weight = false,
                                               .log = false,
                                               .flip_sin_to_cos = options.flip_sin_to_cos}));
  }
  time_embedding_ = model.register_module(
      "time_embedding",
      TimestepEmbedding(time_features(), options.time_embed_dim,
                        TimestepEmbeddingOptions{.act_fn = options.act_fn,
                                                 .post_act_fn = options.timestep_post_act,
                                                 .cond_proj_dim = options.time_cond_proj_dim}));
  if (options.encoder_hid_dim_type) {
    const char* name = "encoder_hid_proj";
    const int64_t width = *options.encoder_hid_dim;
    const int64_t out = options.cross_attention_dim;
    switch (*options.encoder_hid_dim_type) {
      case EncoderHidDimType::kTextProj:
        text_proj_ = model.register_module(name, layers::Linear(width, out));
        break;
      case EncoderHidDimType::kTextImageProj:
        text_image_proj_ = model.register_module(name, TextImageProjection(width, out, out));
        break;
      case EncoderHidDimType::kImageProj:
        image_proj_ = model.register_module(name, ImageProjection(width, out));
        break;
    }
  }
  build_class_embedding(model);
  build_addition(model);
}

void ConditionEmbedder::build_class_embedding(torch::nn::Module& model) {
  const char* name = "class_embedding";
  const int64_t out = options_.time_embed_dim;
  if (!options_.class_embed_type) {
    if (options_.num_class_embeds)
      class_table_ = model.register_module(name, layers::Embedding(*options_.num_class_embeds, out));
    return;
  }
  switch (*options_.class_embed_type) {
    case ClassEmbedType::kTimestep:
      class_embedding_ = model.register_module(
          name,
          TimestepEmbedding(time_features(), out, TimestepEmbeddingOptions{.act_fn = options_.class_act_fn}));
      break;
    case ClassEmbedType::kIdentity:
      break;
    case ClassEmbedType::kProjection:
      class_embedding_ = model.register_module(
          name, TimestepEmbedding(*options_.projection_class_embeddings_input_dim, out));
      break;
    case ClassEmbedType::kSimpleProjection:
      class_linear_ =
          model.register_module(name, layers::Linear(*options_.projection_class_embeddings_input_dim, out));
      break;
  }
}

void ConditionEmbedder::build_addition(torch::nn::Module& model) {
  if (!options_.addition_embed_type) return;
  const char* name = "add_embedding";
  const int64_t text = options_.cross_attention_dim;
  const int64_t out = options_.time_embed_dim;
  switch (*options_.addition_embed_type) {
    case AdditionEmbedType::kText:
      add_text_ = model.register_module(name, TextTimeEmbedding(options_.encoder_hid_dim.value_or(text), out,
                                                                options_.addition_embed_type_num_heads));
      break;
    case AdditionEmbedType::kTextImage:
      add_text_image_ = model.register_module(name, TextImageTimeEmbedding(text, text, out));
      break;
    case AdditionEmbedType::kTextTime:
      add_text_time_ = model.register_module(
          name, TimestepEmbedding(*options_.projection_class_embeddings_input_dim, out));
      break;
    case AdditionEmbedType::kImage:
      add_image_ = model.register_module(name, ImageTimeEmbedding(*options_.encoder_hid_dim, out));
      break;
    case AdditionEmbedType::kImageHint:
      add_image_hint_ = model.register_module(name, ImageHintTimeEmbedding(*options_.encoder_hid_dim, out));
      break;
  }
}

Tensor ConditionEmbedder::project_time(const Tensor& times, const Tensor& sample) const {
  const auto features = time_proj_
                            ? time_proj_->forward(times)
                            : get_timestep_embedding(times, options_.channels, options_.flip_sin_to_cos,
                                                     static_cast<double>(options_.freq_shift));
  return features.to(sample.scalar_type());
}

Tensor ConditionEmbedder::embed_time(const Tensor& times, const Tensor& timestep_cond,
                                     const Tensor& sample) const {
  Tensor condition;
  if (timestep_cond.defined()) {
    require<TensorError>(options_.time_cond_proj_dim.has_value(),
                         "timestep_cond: expected none, since the model has no time_cond_proj_dim, got {}",
                         describe(timestep_cond));
    condition = fitting_condition(timestep_cond, "timestep_cond", "time_cond_proj_dim",
                                  *options_.time_cond_proj_dim, /*tokens=*/false, sample);
  }
  return time_embedding_->forward(project_time(times, sample), condition);
}

Tensor ConditionEmbedder::embed_class(const Tensor& class_labels, const Tensor& sample) const {
  if (!options_.class_embed_type && !class_table_) {
    require<TensorError>(!class_labels.defined(),
                         "class_labels: expected none, since the model has neither num_class_embeds nor "
                         "class_embed_type, got {}",
                         describe(class_labels));
    return {};
  }
  const auto batch = sample.size(0);
  const bool vectors = options_.class_embed_type && *options_.class_embed_type != ClassEmbedType::kTimestep;
  if (vectors) {
    const bool identity = *options_.class_embed_type == ClassEmbedType::kIdentity;
    auto labels = fitting_condition(
        class_labels, "class_labels", "class_embed_type",
        identity ? options_.time_embed_dim : *options_.projection_class_embeddings_input_dim,
        /*tokens=*/false, sample);
    if (identity) return labels;
    return class_linear_ ? class_linear_->forward(labels) : class_embedding_->forward(labels);
  }
  require<TensorError>(class_labels.defined(),
                       "class_labels: expected [{}], since the model is conditional on classes", batch);
  require<TensorError>(class_labels.device() == sample.device(), "class_labels are on {}, the sample on {}",
                       class_labels.device().str(), sample.device().str());
  const auto labels = one_label_for_each(class_labels, batch);
  if (class_table_)
    return class_table_->forward(class_indices(labels, *options_.num_class_embeds, "num_class_embeds"));
  return class_embedding_->forward(project_time(labels, sample));
}

Tensor ConditionEmbedder::text_time_features(const AddedCondKwargs& added, const Tensor& sample) const {
  const auto batch = sample.size(0);
  const auto& text = added.text_embeds;
  const auto& ids = added.time_ids;
  require<TensorError>(
      text.defined() && text.dim() == 2 && text.size(0) == batch && ids.defined() && ids.dim() == 2 &&
          ids.size(0) == batch,
      "addition_embed_type \"text_time\" needs added_cond_kwargs with text_embeds [{}, D] and "
      "time_ids [{}, n], got {} and {}",
      batch, batch, describe(text), describe(ids));
  require<TensorError>(text.device() == sample.device() && ids.device() == sample.device(),
                       "added_cond_kwargs: text_embeds are on {}, time_ids on {}, the sample on {}",
                       text.device().str(), ids.device().str(), sample.device().str());
  const auto width = text.size(1) + ids.size(1) * *options_.addition_time_embed_dim;
  require<TensorError>(
      width == *options_.projection_class_embeddings_input_dim,
      "added_cond_kwargs: text_embeds {} and {} time_ids of addition_time_embed_dim {} make {} "
      "features, expected projection_class_embeddings_input_dim = {}",
      shape_string(text.sizes()), ids.size(1), *options_.addition_time_embed_dim, width,
      *options_.projection_class_embeddings_input_dim);
  const auto times =
      get_timestep_embedding(ids.flatten(), *options_.addition_time_embed_dim, options_.flip_sin_to_cos,
                             static_cast<double>(options_.freq_shift));
  return torch::cat({text, times.reshape({batch, ids.size(1) * *options_.addition_time_embed_dim})}, -1)
      .to(sample.scalar_type());
}

Tensor ConditionEmbedder::embed_addition(const Tensor& encoder_hidden_states, const AddedCondKwargs& added,
                                         const Tensor& sample) const {
  if (!options_.addition_embed_type) return {};
  const int64_t text_width = options_.cross_attention_dim;
  switch (*options_.addition_embed_type) {
    case AdditionEmbedType::kText:
      return add_text_->forward(
          fitting_condition(encoder_hidden_states, "encoder_hidden_states", "addition_embed_type \"text\"",
                            options_.encoder_hid_dim.value_or(text_width), /*tokens=*/true, sample));
    case AdditionEmbedType::kTextImage: {
      const char* reason = "addition_embed_type \"text_image\"";
      return add_text_image_->forward(
          fitting_condition(added.text_embeds, "added_cond_kwargs.text_embeds", reason, text_width,
                            /*tokens=*/false, sample),
          fitting_image_embeds(added, reason, text_width, sample));
    }
    case AdditionEmbedType::kTextTime:
      return add_text_time_->forward(text_time_features(added, sample));
    case AdditionEmbedType::kImage:
      return add_image_->forward(
          fitting_image_embeds(added, "addition_embed_type \"image\"", *options_.encoder_hid_dim, sample));
    case AdditionEmbedType::kImageHint:
      break;
  }
  return add_image_hint_->forward(
      fitting_image_embeds(added, "addition_embed_type \"image_hint\"", *options_.encoder_hid_dim, sample));
}

Tensor ConditionEmbedder::encode_hint(const AddedCondKwargs& added, const Tensor& sample) const {
  const auto& hint = added.hint;
  require<TensorError>(
      hint.defined() && hint.dim() == 4 && hint.size(0) == sample.size(0) &&
          hint.size(1) == ImageHintTimeEmbeddingImpl::kHintChannels && hint.is_floating_point() &&
          hint.device() == sample.device(),
      "addition_embed_type \"image_hint\" needs added_cond_kwargs.hint [{}, 3, 8 H, 8 W], got {}",
      sample.size(0), describe(hint));
  auto encoded = add_image_hint_->encode_hint(hint.to(sample.scalar_type()));
  require<TensorError>(encoded.sizes().slice(2) == sample.sizes().slice(2),
                       "added_cond_kwargs.hint {} becomes {}, which does not fit the sample {}",
                       shape_string(hint.sizes()), shape_string(encoded.sizes()),
                       shape_string(sample.sizes()));
  return encoded;
}

void check_encoder_hidden_states(const Tensor& encoder_hidden_states, const Tensor& sample) {
  if (!encoder_hidden_states.defined()) return;
  const bool autocast = at::autocast::is_autocast_enabled(sample.device().type());
  require<TensorError>(encoder_hidden_states.device() == sample.device() &&
                           (autocast ? encoder_hidden_states.is_floating_point()
                                     : encoder_hidden_states.scalar_type() == sample.scalar_type()),
                       "encoder_hidden_states are {}, the sample is {}", describe(encoder_hidden_states),
                       describe(sample));
}

Tensor ConditionEmbedder::project_encoder(const Tensor& encoder_hidden_states, const AddedCondKwargs& added,
                                          const Tensor& sample) const {
  check_encoder_hidden_states(encoder_hidden_states, sample);
  if (!options_.encoder_hid_dim_type) return encoder_hidden_states;
  if (image_proj_) {
    return image_proj_->forward(fitting_image_embeds(added, "encoder_hid_dim_type \"image_proj\"",
                                                     *options_.encoder_hid_dim, sample));
  }
  const auto text = fitting_condition(encoder_hidden_states, "encoder_hidden_states", "encoder_hid_dim",
                                      *options_.encoder_hid_dim, /*tokens=*/true, sample);
  if (text_proj_) return text_proj_->forward(text);
  return text_image_proj_->forward(text,
                                   fitting_image_embeds(added, "encoder_hid_dim_type \"text_image_proj\"",
                                                        options_.cross_attention_dim, sample));
}

}  // namespace internal
}  // namespace diffusers
