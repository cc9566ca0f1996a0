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
#include <diffusers/training/progress.h>
#include <diffusers/training/task.h>
#include <diffusers/training/trainable_denoiser.h>
#include <diffusers/training/training_config.h>

namespace diffusers {

class TrainingAverage;
namespace detail {
class TrainingData;
}  // namespace detail

/// The argument of a preview callback.
struct PreviewContext {
  int64_t step = 0;         ///< steps that were done
  int64_t total_steps = 0;  ///< steps of the training
  int64_t epoch = 0;        ///< the present epoch, from 0
  std::string output_dir;   ///< that of the TrainingConfig
  /// Keeps pictures `[N, C, H, W]` in [0, 1] as a grid: in `previews/NAME-STEP.png`, and in TensorBoard and
  /// the report if they are on. Throws ConfigError unless the name is a plain file name.
  std::function<void(const std::string& name, const Tensor& images, const ImageGridOptions& options)>
      log_images;
  /// Returns true if the training is to end, by a signal or `request_stop`. A callback that takes long may
  /// return then.
  std::function<bool()> stop_requested;
};

/// The result of `Trainer::train`.
struct TrainingResult {
  int64_t global_step = 0;    ///< steps that were done, those before a resumption included
  int64_t epoch = 0;          ///< the last epoch that was trained in, from 0
  double loss = 0.0;          ///< the loss that was logged last
  int64_t skipped_steps = 0;  ///< steps that were skipped, since the loss or a gradient was not finite
  /// True if all steps were done and the model was published. False if the training was stopped and can be
  /// resumed.
  bool is_complete = false;
  /// The stop signal that came while it ran. Programs exit with 128 + signal. A complete training has one too
  /// if it came after the last step: the model is published, the rest of the final validation is left out.
  std::optional<int> signal = std::nullopt;
};

/// Trains: draws the batches, steps the optimizer, averages, logs, previews, saves and resumes.
///
/// While it trains, `output_dir` holds
///  - `metrics.csv`, a row every `logging_steps`;
///  - `checkpoint-N/`: `unet/` and `unet_ema/` as ordinary model folders, the optimizer, the random states,
///    the position in the data, and a manifest that shows damage. A training that resumes from one continues
///    bit for bit on the CPU.
/// In the end it holds the model (the average, with `use_ema`) in `unet/`, and `scheduler/` and
/// `model_index.json`, so that Python's `DDPMPipeline.from_pretrained` opens it; and `loss.svg` and
/// `noise_schedule.svg`. The model itself then has the averaged weights as well, and is in eval mode.
///
/// The host never waits for the loss of a single step: a step that is not finite is skipped on the device.
class Trainer {
 public:
  /// Configures a task.
  /// @param task configured here, with `config`
  /// @param config the flags of the training
  /// @throws ConfigError naming the field and its value, for everything that does not depend on the dataset,
  ///         such as a changed field that has no effect
  Trainer(std::shared_ptr<Task> task, TrainingConfig config);

  /// Trains a denoiser with a DiffusionTask.
  /// @param model is shared, not copied
  /// @param scheduler gives the noise schedule and the prediction type; is copied
  /// @param config the flags of the training
  /// @param options what is no flag of a training script
  /// @throws ConfigError as above and as DiffusionTask
  template <DenoisingModel Model>
  Trainer(Model model, const Scheduler& scheduler, TrainingConfig config = {},
          DiffusionTaskOptions options = {})
      : Trainer(std::make_shared<DiffusionTask>(TrainableDenoiser(std::move(model)), scheduler,
                                                std::move(options)),
                std::move(config)) {}

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
  /// Called every `logging_steps`.
  void on_log(std::function<void(const TrainingProgress&)> callback) { on_log_ = std::move(callback); }
  /// Called after each step, with the number of steps done. The loss is still on the device then.
  void on_step(std::function<void(int64_t step)> callback) { on_step_ = std::move(callback); }

  /// Ends `train` after the current step, with a checkpoint. After the last step, it leaves out the rest of
  /// the final validation and the preview. May be called from callbacks and other threads.
  void request_stop() { stop_requested_ = true; }

  /// Returns the flags of the training.
  const TrainingConfig& config() const { return config_; }
  /// Returns the task.
  Task& task() { return *task_; }
  /// Returns the average of the last `train`; null before, without `use_ema`, and with another `ema_type`.
  const EMAModel* ema() const;
  /// Returns the average of the last `train` with `ema_type` "lit_ema"; else null.
  const LitEma* lit_ema() const;
  /// Returns the optimizer of the last `train`; null before.
  /// @param update index into the task's updates
  const Optimizer* optimizer(std::size_t update = 0) const {
    return update < optimizers_.size() ? optimizers_[update].get() : nullptr;
  }

 private:
  friend class TrainingRun;

  TrainingResult train_and_validate(const detail::TrainingData& data, const Dataset* validation);

  std::shared_ptr<Task> task_;
  TrainingConfig config_;
  std::function<void(const PreviewContext&)> on_preview_;
  std::function<void(const ValidationResult&)> on_validation_;
  std::function<void(const TrainingProgress&)> on_log_;
  std::function<void(int64_t)> on_step_;
  std::shared_ptr<TrainingAverage> ema_;
  std::vector<std::shared_ptr<Optimizer>> optimizers_;  // one for each update
  std::atomic<bool> stop_requested_ = false;
};

}  // namespace diffusers
