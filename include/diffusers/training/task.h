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
#include <diffusers/data/loader.h>
#include <diffusers/training/optimizer.h>
#include <diffusers/training/saved_module.h>
#include <diffusers/training/training_config.h>

namespace diffusers {

/// The current optimizer step, for a task.
struct StepContext {
  int64_t step = 0;     ///< optimizer steps done before
  int64_t samples = 0;  ///< total number of samples of all batches of this step, in all processes together
  /// Source of all random numbers of the step, on the device of the trained modules. The Trainer always sets
  /// it.
  std::optional<Generator> generator = std::nullopt;
  /// Number of parts that `loss` cuts each batch into, 1 or more; see `TrainingConfig::cpu_data_parallel`. 0,
  /// if there is no Trainer: the number of the TrainingConfig.
  int64_t cpu_data_parallel = 0;
  /// True if the first half of each batch holds instance images and the second half class images of
  /// DreamBooth; see `Batch::is_prior`. `StepRows::of` then gives the batches of a step the random numbers
  /// that one batch of all their instances and all their class images gets.
  bool has_class_images = false;
  /// With several processes, the rows that each batch of this process has of its global batch, in order; see
  /// `DataLoader::rows`. Empty: each batch is a global batch. `StepRows` uses it, so that each process gets
  /// the random numbers that one process would draw for its rows.
  std::vector<BatchRows> rows = {};
};

/// Whether and how a task divides a batch into parts on the CPU, for `TrainingConfig::cpu_data_parallel`.
struct BatchSplit {
  /// The reason why the task needs whole batches, as the end of "cpu_data_parallel is 2, but ...". Empty:
  /// `loss` divides each batch into `StepContext::cpu_data_parallel` parts.
  std::string obstacle = "the task does not divide batches";
  /// True if the Trainer may choose the number of parts: the model then runs on several threads at once.
  bool is_automatic = false;
  /// Height and width of the images divided by those of the model's input, such as 8 for the latents of
  /// Stable Diffusion.
  int64_t downsampling_factor = 1;
};

/// An update of a step: an optimizer and the modules whose parameters it updates. In each step, the Trainer
/// runs the updates of a task one after another. TrainingConfig has the value of a field that is not set.
/// The Trainer refuses a changed field of TrainingConfig that no update takes, such as `adam_beta2` if each
/// update has its own optimizer.
struct Update {
  std::string name = {};  ///< name in the log and in checkpoints; it may be empty if there is only one update
  /// Names of the trained modules whose parameters are updated. Empty: all modules. Each module belongs to
  /// exactly one update.
  std::vector<std::string> modules = {};
  /// Optimizer, with its learning rate. None: the optimizer and the learning rate of TrainingConfig.
  std::optional<OptimizerConfig> optimizer = std::nullopt;
  std::optional<std::string> lr_scheduler = std::nullopt;  ///< learning rate schedule; see `get_scheduler`
  std::optional<int64_t> lr_warmup_steps = std::nullopt;   ///< number of warm-up steps, 0 or more
  std::optional<double> max_grad_norm = std::nullopt;      ///< maximum gradient norm; 0 disables clipping
  int64_t start_step = 0;                                  ///< first step in which the update runs, 0 or more
};

/// A named number of a step for the log, such as `{"kl_loss", kl}`.
struct NamedValue {
  std::string name;  ///< letters, digits, "_", "-", "." and "/"; it may not be a column of metrics.csv
  Tensor value;      ///< 0-dim, or `[B]`; the mean is logged
};

/// The loss of a batch.
struct StepLoss {
  /// `[B]`, one loss for each sample, or 0-dim, the mean over the batch; with its graph. The Trainer
  /// minimises the mean over the samples of the step.
  Tensor loss;
  /// Values for metrics.csv, TensorBoard and the report. All batches have the same names.
  std::vector<NamedValue> values = {};

  /// Creates the loss of a batch.
  /// @param batch_loss `[B]` or 0-dim, with its graph
  /// @param logged values for the log
  StepLoss(Tensor batch_loss, std::vector<NamedValue> logged = {})  // NOLINT(google-explicit-constructor)
      : loss(std::move(batch_loss)), values(std::move(logged)) {}
};

/// The part of a training that is specific to one kind of model: its modules and the loss of a batch.
///
/// The Trainer's constructor calls `configure`. `Trainer::train` calls `check_dataset` or
/// `check_iterable_dataset` for each dataset. In each step it calls `check_batch` for each batch,
/// `begin_step`, and `loss` for each update and batch.
class Task {
 public:
  virtual ~Task() = default;

  /// Returns the modules whose parameters are trained, averaged and saved.
  /// @return one or more modules, always the same
  virtual const std::vector<NamedModule>& trained() const = 0;
  /// Returns the modules that the loss uses and that are not trained, such as a VAE. The Trainer moves them
  /// to the device of the trained modules, puts them into eval mode and disables their gradients. They are
  /// neither averaged nor saved in checkpoints.
  /// @return the modules; none by default
  virtual std::vector<NamedModule> frozen() const { return {}; }
  /// Returns the updates of a step, in the order in which they run. `config` has the options of the training.
  /// @return one or more updates; by default one that updates all modules
  virtual std::vector<Update> updates(const TrainingConfig& /*config*/) const { return {Update{}}; }
  /// Reads the options of the training.
  /// @param config options of the training
  /// @throws ConfigError naming an option that the task does not support
  virtual void configure(const TrainingConfig& config) = 0;
  /// Returns whether the task divides batches on the CPU. The Trainer refuses a `cpu_data_parallel` above 1
  /// if there is an obstacle.
  /// @return by default an obstacle: a task that divides batches overrides it
  virtual BatchSplit batch_split() const { return {}; }
  /// Returns the reason why several processes cannot train the task, as the end of "2 processes train
  /// together, but ...". A task that draws its random numbers without `StepRows` may be trained by several
  /// processes; its result then depends on their number.
  /// @return empty by default: the loss is a mean over samples, and the gradients of the processes add up
  virtual std::string process_obstacle() const { return {}; }
  /// Checks a dataset before the first step. The default accepts any dataset.
  /// @throws ConfigError naming the field and both values, if the modules cannot be trained on the dataset
  virtual void check_dataset(const Dataset& /*dataset*/) {}
  /// Checks a dataset that is read in order, before the first step. The default accepts any dataset.
  /// @throws ConfigError naming the field and both values, if the modules cannot be trained on the dataset
  virtual void check_iterable_dataset(const IterableDataset& /*dataset*/) {}
  /// Checks a batch of the dataset before it is copied to the device. The batch may only be read on the CPU.
  /// The default accepts any batch.
  /// @throws TensorError or ConfigError naming the field, the expected and the actual value
  virtual void check_batch(const Batch& /*batch*/) {}
  /// Starts a step. The Trainer calls it before the first `loss` of the step.
  /// @param context number, samples and generator of the step
  virtual void begin_step(const StepContext& context) = 0;
  /// Computes the loss of a batch.
  /// @param batch batch on the device of the trained modules
  /// @param update index into `updates()`. The parameters of the other updates do not require gradients
  /// @return the losses and values for the log
  virtual StepLoss loss(const Batch& batch, std::size_t update) = 0;
  /// Computes the loss of each sample of a held-out batch at given positions of the noise schedule, without
  /// dropout of the conditioning. The Trainer calls it without gradients.
  /// @param batch batch on the device of the trained modules
  /// @param positions `[B]` float64 in [0, 1), from the least noise to the most
  /// @param generator source of the noise, on the device of the trained modules
  /// @return `[B]`
  /// @throws ConfigError by default: the task has no validation loss. `has_validation` is false then
  virtual Tensor validation_loss([[maybe_unused]] const Batch& batch,
                                 [[maybe_unused]] const Tensor& positions,
                                 [[maybe_unused]] const Generator& generator) {
    throw ConfigError("a validation dataset is given, but this task has no validation loss");
  }
  /// Returns true if the task can be validated on held-out data. A task that overrides `validation_loss` or
  /// `validate` overrides this, too.
  /// @return false by default: the Trainer refuses held-out data before the first step
  virtual bool has_validation() const { return false; }
  /// Computes the loss of each sample of a held-out batch, and values for the log, such as a PSNR. The
  /// default returns `validation_loss` without values.
  /// @param batch as for `validation_loss`
  /// @param positions as for `validation_loss`
  /// @param generator as for `validation_loss`
  /// @return the loss, `[B]`, and the values. The Trainer logs the mean of each value over the held-out
  ///   samples; a 0-dim value counts for each sample of its batch. All batches have the same names
  /// @throws ConfigError if the task has no validation loss
  virtual StepLoss validate(const Batch& batch, const Tensor& positions, const Generator& generator) {
    return {validation_loss(batch, positions, generator)};
  }
  /// Writes the files that are needed to sample from the trained modules, such as `scheduler/` and
  /// `model_index.json`.
  /// @param output_dir existing folder
  /// @throws FileError if a file cannot be written
  virtual void save_extras(const std::filesystem::path& output_dir) const = 0;
  /// Returns the options that the loss depends on besides TrainingConfig and the modules, such as the noise
  /// schedule. A training can be resumed only with equal values. A key that one side lacks is not compared.
  /// @return JSON object
  virtual std::string config_json() const { return "{}"; }
  /// Returns the state of the task besides its modules, such as a history of losses. Each checkpoint contains
  /// it.
  /// @return tensors by name, on any device; none by default
  virtual TensorMap state() const { return {}; }
  /// Restores the state of a checkpoint when a training is resumed.
  /// @param state tensors of `state()`, on the CPU; empty if the checkpoint has no state of its task
  /// @throws Error if the state is of another task
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
