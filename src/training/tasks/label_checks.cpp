#include "training/tasks/label_checks.h"

#include <string>

#include <diffusers/core/logging.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
LabelChecks::LabelChecks(const TrainingConfig& config, const TrainableDenoiser& model)
    : is_given_(config.class_conditional.value_or(model.info.takes_class_labels)),
      may_warn_(!config.class_conditional.has_value()),
      class_dropout_prob_(config.class_dropout_prob),
      num_class_embeds_(model.info.num_class_embeds) {}

void LabelChecks::check(const Dataset& dataset) const {
  const int64_t classes = dataset.class_count();
  if (!is_given_ || !num_class_embeds_ || classes == 0) return;
  require<ConfigError>(classes <= *num_class_embeds_,
                       "the data set has {} classes, but num_class_embeds of the model is {}; expected at "
                       "least {}",
                       classes, *num_class_embeds_, classes);
  require<ConfigError>(class_dropout_prob_ == 0 || classes < *num_class_embeds_,
                       "class_dropout_prob is {}, so the label {} (num_class_embeds - 1) stands for \"no "
                       "class\", but the data set has {} classes, of which it is the last; set "
                       "num_class_embeds to {}, one more than there are classes",
                       class_dropout_prob_, *num_class_embeds_ - 1, classes, classes + 1);
}

void LabelChecks::check(const Batch& batch) {
  const Tensor& labels = batch.class_labels;
  if (!labels.defined()) return;
  if (!is_given_) {
    if (may_warn_)
      log_message(LogLevel::kWarning,
                  "the data set has class labels, but the model takes none, so they are not used: it has no "
                  "num_class_embeds or class_embed_type, or no forward(sample, timesteps, class_labels); "
                  "class_conditional = false silences this warning");
    may_warn_ = false;
    return;
  }
  const bool is_integral = at::isIntegralType(labels.scalar_type(), /*includeBool=*/true);
  require<TensorError>(labels.scalar_type() == at::kLong || (!is_integral && !num_class_embeds_),
                       "class_labels are {}, expected int64; convert them with labels.to(torch::kLong)",
                       describe(labels));
  require<TensorError>(batch.images.dim() > 0 && labels.dim() > 0 && labels.size(0) == batch.images.size(0),
                       "class_labels are {}, but the images are {}; expected one label for each image",
                       describe(labels), describe(batch.images));
  if (!num_class_embeds_ || !labels.is_cpu() || labels.numel() == 0) return;
  const auto [low, high] = labels.aminmax();
  const auto least = low.item<int64_t>();
  const auto largest = high.item<int64_t>();
  const int64_t end = *num_class_embeds_;
  require<TensorError>(
      least >= 0 && largest < end,
      "the data set has the label {}, expected 0 to {} (num_class_embeds of the model is {})",
      least < 0 ? least : largest, end - 1, end);
  require<ConfigError>(
      class_dropout_prob_ == 0 || largest < end - 1,
      "class_dropout_prob is {}, so the label {} (num_class_embeds - 1) stands for \"no "
      "class\", but the data set has samples with this label; set num_class_embeds to {}, one "
      "more than there are classes",
      class_dropout_prob_, end - 1, end + 1);
}

}  // namespace diffusers
