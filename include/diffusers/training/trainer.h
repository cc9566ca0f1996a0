#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/data/dataset.h>
#include <diffusers/data/iterable_dataset.h>
#include <diffusers/io/image.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/training/diffusion_task.h>
#include <diffusers/training/ema.h>
#include <diffusers/training/lit_ema.h>
#include <diffusers/training/optimizer.h>
#include <diffusers/training/process_group.h>
#include <diffusers/training/progress.h>
#include <diffusers/training/task.h>
#include <diffusers/training/trainable_denoiser.h>
#include <diffusers/training/training_config.h>

namespace diffusers {

inline namespace internal {
class TrainingAverage;
class TrainerData;
class TrainingRun;
}  // namespace internal

/// State of the training in a preview callback, and the functions that the callback may call.
struct PreviewContext {
  int64_t step = 0;         ///< optimizer steps done
  int64_t total_steps = 0;  ///< optimizer steps of the whole training
  int64_t epoch = 0;        ///< current epoch, from 0
  std::string output_dir;   ///< folder of the training
  /// Saves images `[N, C, H, W]` in [0, 1] as a grid in `previews/NAME-STEP.png`. The grid is also added to
  /// TensorBoard and the report if these are on. Throws ConfigError if `name` is not a plain file name.
  std::function<void(const std::string& name, const Tensor& images, const ImageGridOptions& options)>
      log_images;
  /// Returns true after a signal or `request_stop`. A long callback can then return early.
  std::function<bool()> stop_requested;
};

/// Result of `Trainer::train`.
struct TrainingResult {
  int64_t global_step = 0;    ///< optimizer steps done, those before a resume included
  int64_t epoch = 0;          ///< last epoch that was trained in, from 0
  double loss = 0.0;          ///< loss that was logged last
  int64_t skipped_steps = 0;  ///< steps that were skipped because of a non-finite value
  /// True if all steps were done and the model was published. False if the training was stopped; it can then
  /// be resumed.
  bool is_complete = false;
  /// Stop signal that arrived during the training. Programs exit with 128 + signal. If it arrived after the
  /// last step, the training is complete: the model is published and the final validation is cut short.
  std::optional<int> signal = std::nullopt;
};

/// Runs the complete training loop: data loading, loss, optimizer, EMA, logging, previews and checkpoints.
///
/// During the training, `output_dir` contains
///  - `metrics.csv` and `metrics.jsonl`, with a row every `logging_steps`;
///  - `checkpoint-N/`: the model folders `unet/` and `unet_ema/`, the optimizer, the random states, the
///    position in the data, and a manifest of sizes and hashes.
///
/// On the CPU a training that resumes from a checkpoint continues bit for bit.
///
/// At the end, `output_dir` contains the model in `unet/` (the EMA weights with `use_ema`), `scheduler/`,
/// `model_index.json`, `loss.svg` and `noise_schedule.svg`. Python opens it with
/// `DDPMPipeline.from_pretrained`. The model object then has the same weights and is in eval mode.
///
/// With a `ProcessGroup` of several processes, each of them computes its part of every batch, and the
/// gradients are summed over the processes while the backward pass still runs. `train_batch_size` is the size
/// of a process's part. N processes train as one process with N times the batch size does, apart from
/// rounding: the order of the samples and the random numbers do not depend on N. Rank 0 alone writes files,
/// validates, shows the progress and calls `on_log`, `on_preview` and `on_validation`. A stop signal to one
/// process stops all of them after the same step; an error of one process ends all of them with its message.
///
/// The loss is read from the device only every `logging_steps` steps. A non-finite step is skipped on the
/// device.
class Trainer {
 public:
  /// Creates a Trainer of a task.
  /// @param task defines the modules and the loss; the Trainer calls its `configure`
  /// @param config options of the training
  /// @param group processes that train together; by default this process alone
  /// @throws ConfigError naming the field and its value, for everything that does not depend on the dataset
  Trainer(std::shared_ptr<Task> task, TrainingConfig config, ProcessGroup group = {});

  /// Creates a Trainer of a DiffusionTask.
  /// @param model shared, not copied
  /// @param scheduler noise schedule and prediction type; copied
  /// @param config options of the training
  /// @param options options of the DiffusionTask
  /// @param group processes that train together; by default this process alone
  /// @throws ConfigError naming the field and its value, as the other constructor and DiffusionTask do
  template <DenoisingModel Model>
  Trainer(Model model, const Scheduler& scheduler, TrainingConfig config = {},
          DiffusionTaskOptions options = {}, ProcessGroup group = {})
      : Trainer(std::make_shared<DiffusionTask>(TrainableDenoiser(std::move(model)), scheduler,
                                                std::move(options)),
                std::move(config), std::move(group)) {}

  /// Trains until the configured step, or until it is stopped. The models are trained on the device they are
  /// on.
  /// A model in train mode keeps the modes of its submodules; a model in eval mode is put into train mode as
  /// a whole.
  /// @throws Error if `max_nonfinite_steps` steps in a row were not finite, or if all steps were skipped
  /// @throws FileError if there are checkpoints to resume from and none is whole, or if a checkpoint cannot
  ///         be written (the ones before stay whole; written in the background, this is thrown at the next
  ///         logging step or checkpoint, or at the end)
  /// @throws ConfigError if the data does not fit the models or the config, and for what would be ignored:
  ///         `validation_steps` above 0 without held-out data and without a preview callback;
  ///         `validation_samples`, `validation_bins` or `on_validation` without held-out data
  /// @param dataset the training data; must outlive the call
  /// @return the steps that were done, and whether they are all
  TrainingResult train(const Dataset& dataset);
  /// Also measures the loss on held-out data by timestep: every `validation_steps` steps and at the end.
  /// @param dataset the training data; must outlive the call
  /// @param validation held-out data, of which the first `validation_samples` samples are used
  /// @return the steps that were done, and whether they are all
  /// @throws ConfigError also if the task has no validation loss; else as without held-out data
  TrainingResult train(const Dataset& dataset, const Dataset& validation);
  /// Trains on data that can only be read in order, such as streamed shards. The dataset shuffles its samples
  /// itself. An epoch is one pass. If the dataset has no `size()`, `max_train_steps` must be set, since the
  /// number of steps of an epoch is not known. A resumed training passes over the samples that were read in
  /// the epoch (`SampleStream::skip`), and continues bit for bit on the CPU.
  /// `dataloader_num_workers` is 0 or 1: a stream is read by one thread.
  /// @param dataset the training data; must outlive the call
  /// @return the steps that were done, and whether they are all
  /// @throws ConfigError without `max_train_steps` and `size()`, with more than one worker, and for a
  ///         checkpoint of a training on a dataset with random access; else as for such a dataset
  TrainingResult train(const IterableDataset& dataset);
  /// Also measures the loss on held-out data, as for a dataset with random access.
  /// @param dataset the training data; must outlive the call
  /// @param validation held-out data with random access
  /// @return the steps that were done, and whether they are all
  /// @throws ConfigError also if the task has no validation loss; else as without held-out data
  TrainingResult train(const IterableDataset& dataset, const Dataset& validation);

  /// Called every `validation_steps` and at the end, with the averaged weights in the models, in eval mode,
  /// without gradients; not after a stop was requested. With a `validation_steps` of 0, it is called at the
  /// end only. The global generators get their states back afterwards.
  void on_preview(std::function<void(const PreviewContext&)> callback) { on_preview_ = std::move(callback); }
  /// Called after each validation. A training without held-out data refuses the callback.
  void on_validation(std::function<void(const ValidationResult&)> callback) {
    on_validation_ = std::move(callback);
  }
  /// Sets the log callback. It is called every `logging_steps` steps.
  /// @param callback called in the thread of `train`
  void on_log(std::function<void(const TrainingProgress&)> callback) { on_log_ = std::move(callback); }
  /// Sets the step callback. It is called after each step with the number of steps done. The loss has not
  /// been read from the device then.
  /// @param callback called in the thread of `train`
  void on_step(std::function<void(int64_t step)> callback) { on_step_ = std::move(callback); }

  /// Ends `train` after the current step, with a checkpoint. After the last step it cuts the final validation
  /// short and skips the preview. It may be called from callbacks and from other threads.
  void request_stop() { stop_requested_ = true; }

  /// @return the options as given
  const TrainingConfig& config() const { return config_; }
  /// @return the processes that train together
  const ProcessGroup& group() const { return group_; }
  /// @return the task as given, or the DiffusionTask that the constructor made
  Task& task() { return *task_; }
  /// @return the EMA of the last `train`; null before the first, without `use_ema`, and with another
  /// `ema_type`. While processes train with `zero_stage`, it averages the parameters of this process alone;
  /// after a training that was completed, it has the averages of all
  const EMAModel* ema() const;
  /// @return the EMA of the last `train` with `ema_type` "lit_ema", else null
  const LitEma* lit_ema() const;
  /// @param update index into the task's updates
  /// @return the optimizer of the last `train`; null before the first and beyond the last update. With
  ///         `zero_stage`, it has the state of the parameters of this process alone
  const Optimizer* optimizer(std::size_t update = 0) const {
    return update < optimizers_.size() ? optimizers_[update].get() : nullptr;
  }

 private:
  friend class internal::TrainingRun;

  TrainingResult train_and_validate(const internal::TrainerData& data, const Dataset* validation);

  std::shared_ptr<Task> task_;
  TrainingConfig config_;
  ProcessGroup group_;
  std::function<void(const PreviewContext&)> on_preview_;
  std::function<void(const ValidationResult&)> on_validation_;
  std::function<void(const TrainingProgress&)> on_log_;
  std::function<void(int64_t)> on_step_;
  std::shared_ptr<TrainingAverage> ema_;
  std::vector<std::shared_ptr<Optimizer>> optimizers_;  // one for each update
  std::atomic<bool> stop_requested_ = false;
};

}  // namespace diffusers
