#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/data/dataset.h>
#include <diffusers/data/iterable_dataset.h>
#include <diffusers/training/optimizer.h>
#include <diffusers/training/saved_module.h>
#include <diffusers/training/training_config.h>

namespace diffusers {

/// One optimizer step as a task sees it.
struct StepContext {
  int64_t step = 0;     ///< optimizer steps done before
  int64_t samples = 0;  ///< samples of all batches of this step together
  /// Source of all random numbers of the step, on the device of the trained modules.
  std::optional<Generator> generator = std::nullopt;
};

/// One optimizer of a training: the parameters that it updates, and when. A training with several updates
/// runs them one after another in each step. A field without a value takes the TrainingConfig's. The Trainer
/// refuses a changed field of TrainingConfig that no update takes, such as `adam_beta2` if each update has
/// its own optimizer.
struct Update {
  std::string name = {};  ///< in the log and in checkpoints; may be empty if it is the only update
  /// Names of the trained modules whose parameters are updated. Empty: all. Each module belongs to one
  /// update.
  std::vector<std::string> modules = {};
  std::optional<OptimizerConfig> optimizer = std::nullopt;  ///< with its learning rate, `lr`
  std::optional<std::string> lr_scheduler = std::nullopt;   ///< see get_scheduler
  std::optional<int64_t> lr_warmup_steps = std::nullopt;    ///< steps in which the rate rises from 0
  std::optional<double> max_grad_norm = std::nullopt;       ///< 0 disables clipping
  /// The update does not run in steps before this one.
  int64_t start_step = 0;
};

/// A number of a step for the log, such as `{"kl_loss", kl}`.
struct NamedValue {
  std::string name;  ///< the column of metrics.csv
  Tensor value;      ///< 0-dim, or `[B]`, of which the mean is logged
};

/// The loss of a batch.
struct StepLoss {
  /// `[B]`, one for each sample, with its graph; or 0-dim, the mean over the batch. The Trainer minimises the
  /// mean over the samples of the step.
  Tensor loss;
  /// Values for metrics.csv, TensorBoard and the report, the same names in every step.
  std::vector<NamedValue> values = {};

  /// @param batch_loss see `loss`
  /// @param logged see `values`
  StepLoss(Tensor batch_loss, std::vector<NamedValue> logged = {})  // NOLINT(google-explicit-constructor)
      : loss(std::move(batch_loss)), values(std::move(logged)) {}
};

/// The part of a training that is specific to one kind of model: its modules and its loss. The Trainer calls
/// `configure` once, `check_dataset` or `check_iterable_dataset` for each dataset of a training, and in each
/// step `check_batch` for each batch, `begin_step`, and `loss` for each update and batch.
class Task {
 public:
  virtual ~Task() = default;

  /// Returns the modules whose parameters are trained, averaged and saved.
  virtual const std::vector<NamedModule>& trained() const = 0;
  /// Returns the modules that the loss uses and that are not trained, such as a VAE. The Trainer moves them
  /// to the device of the trained modules and puts them into eval mode without gradients. They are neither
  /// averaged nor saved in checkpoints.
  virtual std::vector<NamedModule> frozen() const { return {}; }
  /// Returns the updates of a step, in order; one by default.
  virtual std::vector<Update> updates(const TrainingConfig& /*config*/) const { return {Update{}}; }
  /// Reads the options that concern the task.
  /// @throws ConfigError for an option that the task cannot serve
  virtual void configure(const TrainingConfig& config) = 0;
  /// Checks a dataset before the first step. The default accepts any.
  /// @throws ConfigError naming the field and both values, if the modules cannot be trained on it
  virtual void check_dataset(const Dataset& /*dataset*/) {}
  /// Checks a dataset that is read in order before the first step. The default accepts any.
  /// @throws ConfigError naming the field and both values, if the modules cannot be trained on it
  virtual void check_iterable_dataset(const IterableDataset& /*dataset*/) {}
  /// Checks a batch as the dataset gave it, before it is copied to the device. Called for every batch; reads
  /// values on the CPU only. The default accepts any.
  /// @throws TensorError or ConfigError naming the field, the expected and the actual value
  virtual void check_batch(const Batch& /*batch*/) {}
  /// Called before the first batch of a step.
  virtual void begin_step(const StepContext& context) = 0;
  /// Computes the loss of a batch.
  /// @param batch on the device of the trained modules
  /// @param update index into `updates()`; parameters of other updates do not require gradients meanwhile
  virtual StepLoss loss(const Batch& batch, std::size_t update) = 0;
  /// Computes the loss of each sample of held-out data, `[B]`, without a graph, at given places of the noise
  /// schedule and without augmentation of the conditioning.
  /// @param batch on the device of the trained modules
  /// @param positions `[B]` float64 in [0, 1): 0 is the least noise, 1 the most
  /// @param generator source of the noise
  /// @throws ConfigError if the task has no validation
  virtual Tensor validation_loss([[maybe_unused]] const Batch& batch,
                                 [[maybe_unused]] const Tensor& positions,
                                 [[maybe_unused]] const Generator& generator) {
    throw ConfigError("a validation dataset is given, but this task has no validation loss");
  }
  /// Writes the files that make the trained modules usable: scheduler/, model_index.json, pictures.
  virtual void save_extras(const std::filesystem::path& output_dir) const = 0;
  /// Returns the options that the loss depends on besides the TrainingConfig and the modules, such as the
  /// noise schedule, as a JSON object. A training is resumed only with equal values; a key that one side
  /// lacks is not compared.
  virtual std::string config_json() const { return "{}"; }
  /// Returns the state that the task keeps from one step to the next besides its modules, such as a history
  /// of losses. It is saved in each checkpoint; the tensors may be on any device.
  virtual TensorMap state() const { return {}; }
  /// Restores what `state` returned, on the CPU, when a training is resumed; empty from a checkpoint without.
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
