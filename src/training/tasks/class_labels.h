#pragma once

// The class labels of a training: their use, their checks and their dropout.

#include <cstdint>
#include <optional>

#include <diffusers/core/random.h>
#include <diffusers/data/dataset.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/training/diffusion_task_options.h>

namespace diffusers {
inline namespace internal {

class ClassLabels {
 public:
  /// @throws ConfigError if the model does not support `class_conditional` or `class_dropout_prob`
  ClassLabels(const DiffusionTaskOptions& options, const DenoiserInfo& model);

  /// @param classes number of classes of a dataset; 0: not known
  /// @throws ConfigError if the dataset has more classes than the model
  void check_class_count(int64_t classes) const;
  /// Checks the labels of a batch on the host, before they are copied to a device. It warns once if the batch
  /// has labels and the model takes none.
  /// @throws TensorError for a dtype other than int64, and for a label outside the model's class embedding
  /// @throws ConfigError for a label that means "no class", and for missing labels that an option needs
  void check(const Batch& batch);

  /// Returns the labels of a batch, if the model receives them.
  Conditioning conditioning(const Batch& batch) const;
  /// Draws the samples whose labels are dropped.
  /// @return `[samples]` bool, true if the label is dropped; undefined without dropout
  Tensor draw_dropped(int64_t samples, const std::optional<Generator>& generator,
                      const at::TensorOptions& options) const;
  /// Replaces the label by "no class" for each sample whose `is_dropped` is true.
  Conditioning drop(Conditioning conditioning, const Tensor& is_dropped) const;

 private:
  bool is_given() const { return class_conditional_.value_or(takes_labels_); }

  bool takes_labels_ = false;  // true if the model takes labels
  bool is_computed_ = false;   // true if DiffusionTaskOptions::conditioning is set
  std::optional<bool> class_conditional_;
  bool may_warn_ = false;
  double class_dropout_prob_ = 0.0;
  std::optional<int64_t> num_class_embeds_;  // rows of the class embedding; none: it has none
};

}  // namespace internal
}  // namespace diffusers
