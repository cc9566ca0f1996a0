#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/schedulers/scheduler.h>
#include <diffusers/training/diffusion_task_options.h>
#include <diffusers/training/learned_log_variance.h>
#include <diffusers/training/objective.h>
#include <diffusers/training/step_rows.h>
#include <diffusers/training/task.h>
#include <diffusers/training/timestep_sampler.h>
#include <diffusers/training/trainable_denoiser.h>

namespace diffusers {

inline namespace internal {
class ClassLabels;
class ForwardProcess;
}  // namespace internal

/// The task of training a denoiser. For each sample it draws noise and a timestep, and computes the noisy
/// sample and the model's prediction. The loss compares the prediction with the scheduler's target.
///
/// The model receives the same input as in sampling at that timestep. Schedulers that scale their input
/// (Euler, LMS, Heun, KDPM2, DPMSolverSDE, ...) scale it in training, too. The task uses the scheduler's
/// config only; `set_timesteps` has no effect.
///
/// To customise the task, set `DiffusionTaskOptions::conditioning`, or subclass it and override `encode`,
/// `conditioning` or `draw`.
/// @code
/// DiffusionTask task(unet, DDPMScheduler(), {.conditioning = [=](const Batch& batch) {
///                      return Conditioning{.encoder_hidden_states = embeddings.index({batch.class_labels})};
///                    }});
/// @endcode
class DiffusionTask : public Task {
 public:
  /// Random numbers of a batch.
  struct Draw {
    Tensor noise;        ///< shape of x_0; noise of the target
    Tensor input_noise;  ///< shape of x_0; noise of the model's input: `noise` plus the input perturbation
    /// `[B]`. Discrete schedules: int64 timesteps. Flow matching: sigma times T, floating. EDM: sigma,
    /// floating.
    Tensor timesteps;
    Tensor weights = {};           ///< `[B]`, factors of the losses; undefined: all are 1
    Tensor is_unconditional = {};  ///< `[B]` bool, true if the label is dropped; undefined: no label is
  };

  /// Creates a task.
  /// @param model shared, not copied
  /// @param scheduler noise schedule and prediction type; copied
  /// @param options options besides TrainingConfig
  /// @param name folder of the model in `output_dir`
  /// @throws ConfigError naming the option and its value, or the scheduler's class and the reason why it
  /// cannot
  ///         train a model
  DiffusionTask(TrainableDenoiser model, const Scheduler& scheduler, DiffusionTaskOptions options = {},
                std::string name = "unet");

  /// @return the options as given
  const DiffusionTaskOptions& options() const { return options_; }

  /// @return the model, and the learned log variance as "log_variance" if there is one
  const std::vector<NamedModule>& trained() const override { return trained_; }
  /// Reads the options of the training.
  /// @param config options of the training
  /// @throws ConfigError naming an option that the model or the scheduler does not support, or that has no
  ///         effect
  void configure(const TrainingConfig& config) override;
  /// @return an obstacle for a model with dropout or batch normalisation
  BatchSplit batch_split() const override;
  std::string process_obstacle() const override;
  void check_dataset(const Dataset& dataset) override;
  /// Checks the classes, as `check_dataset`.
  void check_iterable_dataset(const IterableDataset& dataset) override;
  void check_batch(const Batch& batch) override;
  void begin_step(const StepContext& context) override;
  StepLoss loss(const Batch& batch, std::size_t update) override;
  /// Computes the loss of each sample of held-out data, without dropped conditioning.
  /// @param batch on the device of the model
  /// @param positions `[B]` float64 in [0, 1): 0 is the least noise, 1 the most
  /// @param generator source of the noise
  /// @return `[B]`, without a graph
  Tensor validation_loss(const Batch& batch, const Tensor& positions, const Generator& generator) override;
  bool has_validation() const override { return true; }
  TensorMap state() const override;
  void load_state(const TensorMap& state) override;
  /// Writes `scheduler/`, `noise_schedule.svg` and the files of `save_pipeline_files`.
  /// @param output_dir existing folder
  /// @throws FileError if a file cannot be written
  void save_extras(const std::filesystem::path& output_dir) const override;
  /// @return JSON of the scheduler's config and the options
  std::string config_json() const override;

 protected:
  /// Creates a task of another forward process of the library.
  /// @param model shared, not copied
  /// @param process forward process, not null
  /// @param options options besides TrainingConfig
  /// @param name folder of the model in `output_dir`
  /// @throws ConfigError naming the option and its value
  DiffusionTask(TrainableDenoiser model, std::shared_ptr<const ForwardProcess> process,
                DiffusionTaskOptions options, std::string name);

  /// @return the current step, with its number of samples and its generator
  const StepContext& step_context() const { return context_; }
  /// Computes x_0 of a batch. The default returns the images. It is called before `draw`, so its random
  /// numbers, such as the posterior noise of a VAE, are drawn before the noise.
  /// @param batch batch on the device of the model
  /// @return `[B, ...]`, floating
  virtual Tensor encode(const Batch& batch);
  /// Computes x_0 of held-out data. The default calls `encode`, which serves if it draws no random numbers.
  /// @param batch on the device of the model
  /// @param generator source of random numbers, drawn before the noise
  /// @return `[B, ...]`, floating
  virtual Tensor encode_for_validation(const Batch& batch, const Generator& generator);
  /// Computes the inputs of the model besides the noisy sample and its timestep. The default calls
  /// `DiffusionTaskOptions::conditioning`, or returns the class labels.
  /// @param batch batch on the device of the model
  /// @return conditioning with one row for each sample
  virtual Conditioning conditioning(const Batch& batch);
  /// Draws the random numbers of a batch. They are drawn for all samples of the step at once, in this order:
  /// noise, noise offset, multi-resolution noise, input perturbation, timesteps, dropped labels. EDMTask
  /// draws the timesteps first.
  /// @param x0 `[B, ...]`, x_0 of the batch
  /// @return the B rows of this batch
  virtual Draw draw(const Tensor& x0);
  /// Makes the forward process. `configure` calls it, unless the task was created with a process.
  /// @param scheduler noise schedule and prediction type
  /// @param loss weights of the timesteps
  /// @return the process, not null
  /// @throws ConfigError naming an option that is not supported
  virtual std::shared_ptr<const ForwardProcess> make_process(const Scheduler& scheduler,
                                                             const DiffusionLossOptions& loss) const;
  /// Writes the files that make a pipeline of `output_dir`, apart from the trained models and `scheduler/`.
  /// The default writes `model_index.json` for a model that a pipeline of Python samples from without other
  /// models.
  /// @param output_dir the folder
  virtual void save_pipeline_files(const std::filesystem::path& output_dir) const;
  /// @return the model
  const TrainableDenoiser& model() const { return model_; }
  /// @return the scheduler that samples with the trained model
  const Scheduler& sampling_scheduler() const;

 private:
  DiffusionTask(TrainableDenoiser model, std::shared_ptr<const Scheduler> scheduler,
                std::shared_ptr<const ForwardProcess> process, DiffusionTaskOptions options,
                std::string name);

  void add_log_variance();
  Tensor log_variance(const Tensor& timesteps) const;
  Tensor predict(const Tensor& noisy, const Tensor& timesteps, const Conditioning& conditioning,
                 int64_t parts) const;
  Draw draw_samples(at::IntArrayRef shape, const at::TensorOptions& options);
  void require_configured(const char* method) const;

  TrainableDenoiser model_;
  std::vector<NamedModule> trained_;
  std::shared_ptr<const Scheduler> scheduler_;     // null: the process is given
  std::shared_ptr<const ForwardProcess> process_;  // null until `configure`, if it is made of the scheduler
  DiffusionTaskOptions options_;
  std::optional<DiffusionObjective> objective_;
  std::optional<TimestepSampler> sampler_;
  LearnedLogVariance log_variance_{nullptr};  // empty: none
  std::shared_ptr<ClassLabels> labels_;
  std::optional<int64_t> resolution_;
  int64_t cpu_data_parallel_ = 0;
  double noise_offset_ = 0.0;
  double input_perturbation_ = 0.0;

  StepContext context_;
  Draw step_draw_;  // of all samples of the step
  StepRows rows_;   // of it
};

}  // namespace diffusers
