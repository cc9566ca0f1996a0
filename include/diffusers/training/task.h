#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/data/dataset.h>
#include <diffusers/training/trainable_model.h>
#include <diffusers/training/training_config.h>

namespace diffusers {

/// A model that a task trains, under the name of its folder, such as "unet".
struct TrainedModel {
  std::string name;
  std::shared_ptr<TrainableModel> model;
};

/// One optimizer step as a task sees it.
struct StepContext {
  int64_t step = 0;     ///< steps done before
  int64_t samples = 0;  ///< samples of all batches of this step together
  std::optional<Generator> generator =
      std::nullopt;  ///< what random numbers are drawn from, on the models' device
};

/// What is trained, and what on: the part of a training that the loop does not know. The Trainer calls
/// `configure` once, `check_dataset` for each data set of a training, and then for each step `check_batch`
/// for each batch, `begin_step`, and `loss` for each batch of the step.
class Task {
 public:
  virtual ~Task() = default;

  /// The models whose parameters are trained, averaged and saved.
  virtual const std::vector<TrainedModel>& models() const = 0;
  /// Takes what concerns it from the flags. @throws ConfigError for a flag that it cannot serve
  virtual void configure(const TrainingConfig& config) = 0;
  /// Checks a data set before the first step. The default accepts any.
  /// @throws ConfigError naming the field and both values, if the models cannot be trained on it
  virtual void check_dataset(const Dataset& /*dataset*/) {}
  /// Checks a batch as the data set gave it, before it is copied to the models' device. Called for every
  /// batch; reads values on the CPU only. The default accepts any.
  /// @throws TensorError or ConfigError naming the field, what was expected and what was found
  virtual void check_batch(const Batch& /*batch*/) {}
  virtual void begin_step(const StepContext& context) = 0;
  /// The loss of each sample, `[B]`, with its graph. What the Trainer minimises is the mean over the step's
  /// samples.
  /// @param batch on the models' device
  virtual Tensor loss(const Batch& batch) = 0;
  /// The loss of each sample of held-out data, `[B]`, without a graph; what `loss` would give, but at places
  /// of the noise schedule that are given and without augmentation of the conditioning.
  /// @param batch on the models' device
  /// @param positions `[B]` float64 in [0, 1): 0 is the least noise, 1 the most
  /// @param generator what the noise is drawn from
  /// @throws ConfigError where a task has no validation
  virtual Tensor validation_loss(const Batch& /*batch*/, const Tensor& /*positions*/,
                                 const Generator& /*generator*/) {
    throw ConfigError("a validation data set is given, but this task has no validation loss");
  }
  /// Writes what makes the trained models usable besides the models: scheduler/, model_index.json, pictures.
  virtual void save_extras(const std::string& output_dir) const = 0;
  /// Returns the options that the loss depends on besides the TrainingConfig and the models, such as the
  /// noise schedule, as a JSON object. A training is resumed only with equal values; a key that one side
  /// lacks is not compared.
  virtual std::string config_json() const { return "{}"; }
  /// What the task keeps from one step to the next besides its models, such as a history of losses. Saved in
  /// each checkpoint; the tensors may lie anywhere.
  virtual TensorMap state() const { return {}; }
  /// Takes back what `state` gave, on the CPU, when a training is resumed; empty from a checkpoint without.
  /// @throws Error if it does not fit
  virtual void load_state(const TensorMap& state) {
    if (!state.empty())
      throw Error("the checkpoint holds a state of its task (\"" + state.begin()->first +
                  "\"), which this task does not take; it was written by another task");
  }

 protected:
  // Copying and assigning through the base would slice.
  Task() = default;
  Task(const Task&) = default;
  Task(Task&&) noexcept = default;
  Task& operator=(const Task&) = default;
  Task& operator=(Task&&) noexcept = default;
};

}  // namespace diffusers
