#include "training/tasks/task_inputs.h"

#include <algorithm>
#include <string>

#include <ATen/ATen.h>
#include <torch/nn/modules/dropout.h>

#include "core/json.h"
#include "core/require.h"

namespace diffusers {

void require_no_dropout(TrainableModel& model, int64_t cpu_data_parallel) {
  double dropout = 0.0;
  if (const std::string config = model.config_json(); !config.empty())
    dropout = parse_json(config, "config_json() of the model").value("dropout", 0.0);
  for (const auto& module : model.module().modules())
    if (const auto* layer = module->as<torch::nn::DropoutImpl>())
      dropout = std::max(dropout, layer->options.p());
  require<ConfigError>(dropout == 0,
                       "cpu_data_parallel is {}, but the model has dropout {}, whose random numbers would be "
                       "drawn in another order each time",
                       cpu_data_parallel, dropout);
}

void require_positional_embedding(const TrainableModel& model, std::string_view timesteps) {
  const std::string text = model.config_json();
  if (text.empty()) return;
  const Json config = parse_json(text, "config_json() of the model");
  const auto type = config.find("time_embedding_type");
  require<ConfigError>(type == config.end() || *type == "positional",
                       "time_embedding_type of the model is {}, but {} are log(sigma) / 4, negative and not "
                       "whole; expected \"positional\"",
                       type == config.end() ? std::string() : type->dump(), timesteps);
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

int64_t null_label(const TrainingConfig& config, TrainableModel& model) {
  require<ConfigError>(
      !config.class_conditional.value_or(false) || model.takes_class_labels(),
      "class_conditional is true, but the model has no class embedding (num_class_embeds, class_embed_type)");
  if (config.class_dropout_prob == 0) return 0;
  require<ConfigError>(config.class_conditional.value_or(true) && model.takes_class_labels(),
                       "class_dropout_prob is {}, but the model is given no class labels",
                       config.class_dropout_prob);
  const std::string text = model.config_json();
  const Json config_of_model = text.empty() ? Json::object() : parse_json(text, "config_json() of the model");
  require<ConfigError>(config_of_model.contains("num_class_embeds") &&
                           config_of_model.at("num_class_embeds").is_number_integer(),
                       "class_dropout_prob is {}, but the model's config has no num_class_embeds, whose last "
                       "class would stand for no class",
                       config.class_dropout_prob);
  return config_of_model.at("num_class_embeds").get<int64_t>() - 1;
}

Conditioning label_conditioning(const Batch& batch, const TrainableModel& model,
                                const std::optional<bool>& class_conditional) {
  const bool has_labels = batch.class_labels.defined();
  require<ConfigError>(has_labels || !class_conditional.value_or(false),
                       "class_conditional is true, but the data set has no class labels");
  Conditioning conditioning;
  if (class_conditional.value_or(has_labels && model.takes_class_labels()))
    conditioning.class_labels = batch.class_labels;
  return conditioning;
}

Conditioning drop_labels(Conditioning conditioning, const Tensor& is_unconditional, int64_t null_label) {
  if (conditioning.class_labels.defined() && is_unconditional.defined())
    conditioning.class_labels = conditioning.class_labels.masked_fill(is_unconditional, null_label);
  return conditioning;
}

}  // namespace diffusers
