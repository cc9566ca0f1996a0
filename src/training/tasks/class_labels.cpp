#include "training/tasks/class_labels.h"

#include <diffusers/core/logging.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

ClassLabels::ClassLabels(const DiffusionTaskOptions& options, const DenoiserInfo& model)
    : takes_labels_(model.takes_class_labels),
      is_computed_(static_cast<bool>(options.conditioning)),
      class_conditional_(options.class_conditional),
      may_warn_(!options.class_conditional.has_value() && !options.conditioning),
      class_dropout_prob_(options.class_dropout_prob),
      num_class_embeds_(model.num_class_embeds) {
  require<ConfigError>(class_dropout_prob_ >= 0 && class_dropout_prob_ < 1,
                       "class_dropout_prob is {}, expected 0 to less than 1", class_dropout_prob_);
  require<ConfigError>(!is_computed_ || !class_conditional_,
                       "class_conditional is {}, which has no effect with a conditioning function; set "
                       "class_labels in its result instead",
                       class_conditional_.value_or(false));
  require<ConfigError>(
      !class_conditional_.value_or(false) || takes_labels_,
      "class_conditional is true, but the model has no class embedding (num_class_embeds, class_embed_type)");
  if (class_dropout_prob_ == 0) return;
  require<ConfigError>(is_given() && takes_labels_,
                       "class_dropout_prob is {}, but the model is given no class labels",
                       class_dropout_prob_);
  require<ConfigError>(num_class_embeds_.has_value(),
                       "class_dropout_prob is {}, but the model's config has no num_class_embeds, whose last "
                       "class would mean \"no class\"",
                       class_dropout_prob_);
}

void ClassLabels::check_class_count(int64_t classes) const {
  if (is_computed_ || !is_given() || !num_class_embeds_ || classes == 0) return;
  require<ConfigError>(classes <= *num_class_embeds_,
                       "the dataset has {} classes, but num_class_embeds of the model is {}; expected at "
                       "least {}",
                       classes, *num_class_embeds_, classes);
  require<ConfigError>(class_dropout_prob_ == 0 || classes < *num_class_embeds_,
                       "class_dropout_prob is {}, so the label {} (num_class_embeds - 1) stands for \"no "
                       "class\", but the dataset has {} classes, of which it is the last; set "
                       "num_class_embeds to {}, one more than there are classes",
                       class_dropout_prob_, *num_class_embeds_ - 1, classes, classes + 1);
}

void ClassLabels::check(const Batch& batch) {
  if (is_computed_) return;
  const Tensor& labels = batch.class_labels;
  if (!labels.defined()) {
    require<ConfigError>(class_dropout_prob_ == 0,
                         "class_dropout_prob is {}, but the dataset has no class labels",
                         class_dropout_prob_);
    return;
  }
  if (!is_given()) {
    if (may_warn_)
      log_message(LogLevel::kWarning,
                  "the dataset has class labels, but the model takes none, so they are not used: it has no "
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
  require<TensorError>(least >= 0 && largest < end,
                       "the dataset has the label {}, expected 0 to {} (num_class_embeds of the model is {})",
                       least < 0 ? least : largest, end - 1, end);
  require<ConfigError>(
      class_dropout_prob_ == 0 || largest < end - 1,
      "class_dropout_prob is {}, so the label {} (num_class_embeds - 1) stands for \"no "
      "class\", but the dataset has samples with this label; set num_class_embeds to {}, one "
      "more than there are classes",
      class_dropout_prob_, end - 1, end + 1);
}

Conditioning ClassLabels::conditioning(const Batch& batch) const {
  const bool has_labels = batch.class_labels.defined();
  require<ConfigError>(has_labels || !class_conditional_.value_or(false),
                       "class_conditional is true, but the dataset has no class labels");
  Conditioning conditioning;
  if (has_labels && is_given()) conditioning.class_labels = batch.class_labels;
  return conditioning;
}

Tensor ClassLabels::draw_dropped(int64_t samples, const std::optional<Generator>& generator,
                                 const at::TensorOptions& options) const {
  if (class_dropout_prob_ == 0) return {};
  return at::rand({samples}, generator, options.dtype(at::kFloat)) < class_dropout_prob_;
}

Conditioning ClassLabels::drop(Conditioning conditioning, const Tensor& is_dropped) const {
  if (!is_dropped.defined()) return conditioning;
  require<ConfigError>(conditioning.class_labels.defined() && num_class_embeds_,
                       "labels are to be dropped (class_dropout_prob is {}), but the conditioning of this "
                       "batch has no class_labels, or the model no num_class_embeds",
                       class_dropout_prob_);
  conditioning.class_labels = conditioning.class_labels.masked_fill(is_dropped, *num_class_embeds_ - 1);
  return conditioning;
}

}  // namespace internal
}  // namespace diffusers
