#include "training/tasks/task_inputs.h"

#include <string>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {

void require_no_dropout(const TrainableDenoiser& model, int64_t cpu_data_parallel) {
  require<ConfigError>(model.info.dropout == 0,
                       "cpu_data_parallel is {}, but the model has dropout {}, whose random numbers would be "
                       "drawn in another order each time",
                       cpu_data_parallel, model.info.dropout);
}

void require_positional_embedding(const TrainableDenoiser& model, std::string_view timesteps) {
  const std::string& type = model.info.time_embedding_type;
  require<ConfigError>(
      type.empty() || type == "positional",
      "time_embedding_type of the model is \"{}\", but {} are log(sigma) / 4, negative and not "
      "whole; expected \"positional\"",
      type, timesteps);
}

const Tensor& images_of(const Batch& batch, const std::optional<int64_t>& resolution) {
  const Tensor& images = batch.images;
  require<TensorError>(images.defined() && images.dim() == 4 && at::isFloatingType(images.scalar_type()),
                       "the data set gives images {}, expected a floating tensor [B, C, H, W]",
                       describe(images));
  require<ConfigError>(!resolution || (images.size(2) == *resolution && images.size(3) == *resolution),
                       "resolution is {}, but the data set gives images {}", resolution.value_or(0),
                       describe(images));
  return images;
}

int64_t null_label(const TrainingConfig& config, const TrainableDenoiser& model) {
  require<ConfigError>(
      !config.class_conditional.value_or(false) || model.info.takes_class_labels,
      "class_conditional is true, but the model has no class embedding (num_class_embeds, class_embed_type)");
  if (config.class_dropout_prob == 0) return 0;
  require<ConfigError>(config.class_conditional.value_or(true) && model.info.takes_class_labels,
                       "class_dropout_prob is {}, but the model is given no class labels",
                       config.class_dropout_prob);
  require<ConfigError>(model.info.num_class_embeds.has_value(),
                       "class_dropout_prob is {}, but the model's config has no num_class_embeds, whose last "
                       "class would stand for no class",
                       config.class_dropout_prob);
  return *model.info.num_class_embeds - 1;
}

Conditioning label_conditioning(const Batch& batch, const TrainableDenoiser& model,
                                const std::optional<bool>& class_conditional) {
  const bool has_labels = batch.class_labels.defined();
  require<ConfigError>(has_labels || !class_conditional.value_or(false),
                       "class_conditional is true, but the data set has no class labels");
  Conditioning conditioning;
  if (class_conditional.value_or(has_labels && model.info.takes_class_labels))
    conditioning.class_labels = batch.class_labels;
  return conditioning;
}

Conditioning drop_labels(Conditioning conditioning, const Tensor& is_unconditional, int64_t null_label) {
  if (conditioning.class_labels.defined() && is_unconditional.defined())
    conditioning.class_labels = conditioning.class_labels.masked_fill(is_unconditional, null_label);
  return conditioning;
}

}  // namespace diffusers
