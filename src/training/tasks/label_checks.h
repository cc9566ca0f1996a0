#pragma once

// What a class-conditional training expects of the labels of its data.

#include <cstdint>
#include <optional>

#include <diffusers/data/dataset.h>
#include <diffusers/training/trainable_denoiser.h>
#include <diffusers/training/training_config.h>

namespace diffusers {

/// Checks the labels of a training's data on the host, before they reach a device.
class LabelChecks {
 public:
  LabelChecks(const TrainingConfig& config, const TrainableDenoiser& model);

  /// @throws ConfigError if the data set has more classes than the model
  void check(const Dataset& dataset) const;
  /// Warns once if there are labels and the model takes none.
  /// @throws TensorError for a dtype other than int64 and a label outside the model's table; ConfigError for
  /// a label that stands for "no class"
  void check(const Batch& batch);

 private:
  bool is_given_ = false;  // to the model
  bool may_warn_ = false;  // class_conditional does not say that labels are left out
  double class_dropout_prob_ = 0.0;
  std::optional<int64_t>
      num_class_embeds_;  // of the model's table of classes; none: it has none, or no config
};

}  // namespace diffusers
