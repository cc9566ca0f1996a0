#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/data/loader.h>
#include <diffusers/training/post_hoc_ema.h>
#include <diffusers/training/process_group.h>
#include <diffusers/training/progress.h>
#include <diffusers/training/tensorboard.h>
#include <diffusers/training/trainer.h>

#include "core/json.h"
#include "io/folder_lock.h"
#include "models/module_modes.h"
#include "training/checkpoint/checkpoint.h"
#include "training/checkpoint/checkpoint_writer.h"
#include "training/distributed/gradient_exchange.h"
#include "training/loop/captured_step.h"
#include "training/loop/device_copies.h"
#include "training/loop/image_checks.h"
#include "training/loop/random_state.h"
#include "training/loop/sharding.h"
#include "training/loop/stop_signals.h"
#include "training/loop/trainer_data.h"
#include "training/loop/training_average.h"
#include "training/loop/update_run.h"

namespace diffusers {
inline namespace internal {

class JoinedBatch;

/// One call of `Trainer::train`: everything that lives as long as it.
class TrainingRun {
 public:
  /// @param validation null: none
  TrainingRun(Trainer& trainer, const TrainerData& data, const Dataset* validation);
  TrainingResult run();

 private:
  /// The batches of one optimizer step.
  struct Group {
    std::vector<Batch> batches;
    std::vector<BatchRows> rows;    // of each batch in its global batch; empty in a process that trains alone
    int64_t samples = 0;            // of all processes together
    bool has_idle_process = false;  // a process has no sample of one of the batches
  };
  /// The post-hoc averages of one module.
  struct PowerAverage {
    std::string model;
    TensorMap parameters;
    PostHocEma ema;
  };
  /// Result of a backward pass over the batches of a step, on the device.
  struct Backward {
    Tensor loss;                     // mean over the step's samples
    std::vector<NamedValue> values;  // 0-dim each, means over the step's samples
  };

  // trainer.cpp: the loop
  void start();
  void start_fresh();
  void open_loader();
  void freeze_modules();
  void require_progress() const;
  void finish();
  bool must_stop() const;

  // training_step.cpp: the optimizer steps
  void train_step();
  Group next_group();
  void check_values(const Batch& batch);
  void run_update(std::size_t update);
  void average();

  // training_group.cpp: what the processes of a group tell each other
  void check_group() const;
  std::string description_for_group() const;
  void share_start(bool is_resumed);
  void share_weights();
  void share_state(const TensorMap& tensors);
  void share_stand_ins(Group& group) const;
  std::shared_ptr<const JoinedBatch> joined_batch(const BatchRows& rows) const;
  void share_generator();
  void share_moments();
  void agree_to_stop();
  bool must_end() const;
  void gather_for_checkpoint();
  void gather_average(bool is_wanted);
  int64_t place_in_epoch(int64_t saved_index) const;

  // training_pass.cpp: the forward and backward pass
  Batch to_device(const Batch& batch) const;
  void order_weights();
  void prepare_capture(const Batch& first);
  Backward backward(const Group& group, std::size_t update);
  StepResult backward_of(const Batch& batch, double samples, std::size_t update, bool is_last);
  void add_gradients(const Tensor& loss, std::size_t update, bool is_last);

  // training_log.cpp: what is known of the steps, and what is done about those that are not finite
  void log();
  std::vector<UpdateRun::Log> read_updates();
  void report_skipped(int64_t newly_skipped, bool is_nonfinite);
  void stop_if_nonfinite(int64_t steps_in_row);
  std::string nonfinite_origin(std::size_t update);
  std::vector<LoggedValue> named_values(const std::vector<UpdateRun::Log>& logs) const;
  void preview();
  void log_images(const std::string& name, const Tensor& images, const ImageGridOptions& options);

  void log_validation(const ValidationResult& result);
  void open_tensorboard();
  void save_report() const;

  // validation.cpp
  void check_validation() const;
  void validate();
  void evaluate();

  void save_power_ema();

  // training_resume.cpp: what is read from a checkpoint, and what may be in output_dir
  bool resume();
  void resume_named(const std::string& wanted);
  void load_checkpoint(const std::string& folder);
  void load_state_json(const Json& state, const std::string& where);
  void compare_data_order(const Json& state, const std::string& where) const;
  void compare_options(const Json& state, const std::string& where) const;
  void compare_updates(const Json& saved, const std::string& where) const;
  void warn_about_length(int64_t saved_steps) const;
  void load_state_tensors(const TensorMap& tensors);
  void load_random_state(const TensorMap& tensors, const std::string& saved_device);
  void require_free_output_dir() const;
  std::vector<std::string> model_names() const;

  // training_parts.cpp: the parts that each batch is cut into on the CPU
  void check_batch_parts() const;
  int64_t batch_parts(const Batch& first);
  int64_t choose_batch_parts(const Batch& first);
  int64_t automatic_batch_parts(const Batch& batch) const;
  void load_batch_parts(const Json& state, const std::string& where);

  // training_state.cpp: checkpoints and the final folder
  void save_checkpoint();
  void write_gathered_checkpoint();
  bool can_copy_checkpoint();
  CheckpointContent checkpoint_content(bool is_copied);
  SnapshotWriter model_writer(const NamedModule& named, bool is_average, bool is_copied) const;
  void save_final();
  void require_finite_state() const;
  Json state_json() const;
  TensorMap state_tensors() const;

  Trainer& trainer_;
  const ProcessGroup& process_group_;
  const TrainingConfig& config_;
  Task& task_;
  std::vector<Tensor> parameters_;  // of all trained modules, in order
  std::vector<Tensor> averaged_;    // of those that are averaged
  std::vector<Tensor> trainable_;   // those that require a gradient
  at::Device device_;
  at::ScalarType dtype_;
  DeviceCopies copies_;

  std::optional<FolderLock> lock_;
  std::optional<StopSignals> signals_;
  CheckpointWriter checkpoint_writer_;  // is done before the lock ends
  TrainerData data_;
  const Dataset* validation_;
  std::optional<DataLoader> loader_;
  int64_t total_steps_ = 0;
  uint64_t seed_ = 0;
  Generator generator_;
  std::vector<UpdateRun> updates_;
  std::unique_ptr<Sharding> sharding_;  // null: each process has the state of all parameters
  std::vector<std::unique_ptr<GradientExchange>>
      reducers_;                               // of each update; empty in a process that trains alone
  std::optional<CapturedStep> captured_step_;  // with CudaOptions::graphs, if a step can be captured
  bool has_prepared_capture_ = false;
  bool is_averaged_ = false;                  // the optimizer step moved the EMA
  std::vector<PowerAverage> power_averages_;  // of each model; empty if none are kept
  std::vector<TensorMap>
      gathered_moments_;              // of each update, while a checkpoint is written, if they are divided
  TensorMap rank_random_states_;      // of the processes other than rank 0, for the checkpoint
  int64_t saved_world_size_ = 1;      // of the checkpoint that the training goes on from
  std::optional<int> agreed_signal_;  // stop signal of any process; 0: a stop was requested

  ImageRangeCheck image_range_;
  bool has_seen_data_ = false;

  int64_t batch_parts_ = 0;  // parts of each batch; 0: not known yet
  bool has_chosen_parts_ = false;

  // The last step, as it was before: what a step that was not finite is computed from once more.
  Group group_;
  StepContext step_context_;
  Tensor generator_state_;
  std::string nonfinite_origin_;  // of the first one in a row; empty: not known

  int64_t global_step_ = 0;
  int64_t epoch_ = 0;
  int64_t last_saved_step_ = -1;
  bool has_warned_of_memory_ = false;
  bool is_from_elsewhere_ = false;  // the checkpoint that the training goes on from is not of output_dir
  int64_t last_preview_step_ = -1;
  int64_t last_validation_step_ = -1;
  double last_loss_ = 0.0;
  int64_t skipped_steps_ = 0;  // of all updates together, as read last

  // Time of this process, without previews and checkpoints.
  double training_seconds_ = 0.0;
  double logged_seconds_ = 0.0;
  double data_seconds_ = 0.0;  // since the last logging step, spent waiting for data
  int64_t images_since_log_ = 0;
  int64_t first_step_ = 0;

  std::unique_ptr<ProgressDisplay> display_;
  std::unique_ptr<MetricsLog> metrics_;
  std::unique_ptr<TensorBoardWriter> tensorboard_;
};

/// The average in place of the weights, without a copy, until the scope ends.
class AveragedWeights {
 public:
  AveragedWeights(const std::vector<Tensor>& parameters, const TrainingAverage* ema);
  AveragedWeights(const AveragedWeights&) = delete;
  AveragedWeights& operator=(const AveragedWeights&) = delete;
  ~AveragedWeights();

 private:
  std::vector<Tensor> parameters_;
  std::vector<Tensor> weights_;
};

/// The models as they will be used, until the scope ends: averaged weights, eval mode, no gradients; what is
/// drawn from the global generators meanwhile does not reach the training. Each submodule gets its own mode
/// back.
class EvaluationScope {
 public:
  EvaluationScope(const Task& task, at::Device device, const std::vector<Tensor>& parameters,
                  const TrainingAverage* ema);
  EvaluationScope(const EvaluationScope&) = delete;
  EvaluationScope& operator=(const EvaluationScope&) = delete;
  ~EvaluationScope();

 private:
  std::vector<ModuleModes> modes_;
  RandomStateGuard random_state_;
  at::NoGradGuard no_grad_;
  AveragedWeights averaged_;
};

/// Seconds of the steady clock.
double now_seconds();
/// Puts models that are in eval mode into train mode. A model in train mode keeps the modes of its
/// submodules.
void begin_train_mode(const Task& task);
void set_eval_mode(const Task& task);
/// Warns if a training runs on the CPU, in one thread pool, although there is a CUDA device.
/// @return whether it did
bool warn_of_cpu_training(at::Device device, int64_t cpu_data_parallel, bool has_cuda);
/// Warns of options and devices that make a training slower than it need be on this machine.
void warn_of_slow_training(at::Device device, const TrainingConfig& config);

}  // namespace internal
}  // namespace diffusers
