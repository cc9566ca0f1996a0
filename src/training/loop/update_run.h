#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/training/grad_scaler.h>
#include <diffusers/training/lr_scheduler.h>
#include <diffusers/training/optimizer.h>
#include <diffusers/training/process_group.h>
#include <diffusers/training/task.h>
#include <diffusers/training/training_config.h>

#include "core/json.h"
#include "training/loop/device_lr.h"
#include "training/loop/sharding.h"
#include "training/optim/fused_adamw.h"

namespace diffusers {
inline namespace internal {

/// A named value of a step, as read from the device.
using LoggedValue = std::pair<std::string, double>;

/// One update of a training: its optimizer, learning rate schedule and loss scaler, and the counters of its
/// steps. Nothing here makes the host wait for a device, except `log`, whose tensors the caller reads at
/// once.
class UpdateRun {
 public:
  /// @param total_steps optimizer steps of the training
  UpdateRun(const Task& task, const TrainingConfig& config, Update update, int64_t total_steps,
            at::Device device, at::ScalarType dtype);

  const std::string& name() const { return update_.name; }
  /// The parameters that the optimizer updates; all require a gradient.
  const std::vector<Tensor>& parameters() const { return parameters_; }
  const std::shared_ptr<Optimizer>& optimizer() const { return optimizer_; }
  double learning_rate() const { return learning_rate_; }
  double lr_factor(int64_t steps) const { return lr_schedule_(steps); }
  bool runs_at(int64_t global_step) const { return global_step >= update_.start_step; }
  int64_t start_step() const { return update_.start_step; }

  /// Lets the optimizer step the parameters that this process owns.
  /// @param sharding must outlive this
  void divide(const Sharding& sharding) { sharding_ = &sharding; }

  /// Adds the gradients of a loss, which is multiplied by the scale of fp16. With `fused_backward_pass`, it
  /// updates the parameters and leaves no gradients.
  /// @param loss 0-dim, requires a gradient
  void backward(const Tensor& loss, int64_t global_step);
  /// Returns the loss multiplied by the scale of fp16.
  Tensor scaled(const Tensor& loss) { return scaler_ ? scaler_->scale(loss) : loss; }
  /// Returns the gradient of a parameter. With `fused_backward_pass`, returns the norm of its last gradient.
  /// @return undefined if there is none
  Tensor gradient_or_norm(const Tensor& parameter) const;

  /// Result of a backward pass, 0-dim float32 each, on the device.
  struct Outcome {
    Tensor is_nonfinite;  ///< 1 if the loss or a gradient is not finite, except for an overflow of fp16
    Tensor is_skipped;    ///< 1 if the optimizer must not step
  };
  /// Unscales and clips the gradients and counts the step.
  /// @param loss mean over the step's samples, 0-dim
  /// @param values named values, 0-dim each
  Outcome inspect(const Tensor& loss, const std::vector<NamedValue>& values);
  /// Steps the optimizer, unless `is_skipped`, and drops the gradients. With `fused_backward_pass`,
  /// `backward` has stepped it.
  /// @param average moved in the same pass if this library's kernels step; may be null
  /// @return whether the average was moved
  bool step(int64_t global_step, const Tensor& is_skipped, const FusedAverage* average = nullptr);
  /// Returns true if this library's kernels do this step in one pass (`FusedAdamW`); between `inspect` and
  /// `step`.
  bool uses_kernels() const { return fused_outcome_.defined(); }
  /// Tells the learning rate table of a device how many steps were skipped, as the host knows it.
  void settle(int64_t global_step);

  /// The values that `log` reads, on the device, of one dtype: a fixed part and one tensor for each named
  /// value.
  std::vector<Tensor> log_tensors() const;
  /// Adds the sums of the named values of all processes up on rank 0, and clears them on the others, so that
  /// nothing is counted twice.
  void join_values(const ProcessGroup& group);
  /// Clears the sums of the named values, which another process has.
  void clear_values();
  /// Numbers of the steps since the last logging step.
  struct Log {
    std::optional<double> loss;  ///< mean over the finite steps; nullopt: there was none
    double grad_norm = 0.0;      ///< of the last step, before clipping
    double lr = 0.0;             ///< of the last step
    int64_t worst_row = 0;       ///< most consecutive non-finite steps
    int64_t row = 0;             ///< consecutive non-finite steps up to now
    int64_t newly_skipped = 0;   ///< steps skipped since the last logging step
    std::vector<LoggedValue> values = {};
  };
  /// @param values those of `log_tensors`, on the host; resets the sums
  Log log(const double* values, int64_t global_step);
  /// Consecutive non-finite steps; waits for a device.
  int64_t nonfinite_in_row() const { return counters_.nonfinite_in_row.item<int64_t>(); }
  int64_t skipped_steps() const { return skipped_steps_; }

  /// Counters and loss scale under their names in a checkpoint.
  TensorMap state() const;
  /// @param most the steps that were done, the largest count that is possible
  /// @throws TensorError for a value that cannot be
  void load_state(const TensorMap& state, int64_t most);
  /// Options of the update that differ from the TrainingConfig's, compared when a training is resumed.
  Json config_json() const;

 private:
  /// Known on the device alone, 0-dim; `loss_sum` of the training's dtype, the rest float32.
  struct Counters {
    Tensor loss_sum, finite_steps;  // since the last logging step
    Tensor nonfinite_in_row, worst_row, skipped_steps, grad_norm;
    Tensor last_skipped;  // 1 if the last step was
  };

  /// Steps of this update that were done, skipped ones included.
  int64_t own_steps(int64_t global_step) const { return global_step - update_.start_step; }

  /// Computes the norm of the gradients for this library's kernels, on a CUDA device with a kernel. On a CPU
  /// it unscales the gradients, too.
  /// @return float32 `[3]`, as `FusedAdamW::gradient_norm`; undefined if the kernels do not serve
  Tensor fused_gradient_norm();
  /// Computes the norm of the gradients and clips them.
  Tensor clip_gradients() const;
  /// The factor on the learning rate of the next step.
  struct Factor {
    double value = 1.0;
    Tensor tensor;  // on the device; undefined: `value`
  };
  /// @param skipped steps that were skipped up to now, 0-dim, on the device
  Factor next_factor(int64_t global_step, const Tensor& skipped);
  void step_in_backward(const Tensor& loss, int64_t global_step);

  Update update_;
  bool steps_in_backward_ = false;  // fused_backward_pass
  double max_grad_norm_ = 0.0;
  double learning_rate_ = 0.0;
  at::ScalarType dtype_;
  at::Device device_;
  std::vector<Tensor> parameters_;
  std::shared_ptr<Optimizer> optimizer_;
  LRSchedule lr_schedule_;
  std::optional<FusedAdamW> fused_;    // the kernels, if they are enabled and serve
  Tensor fused_outcome_;               // of the norm of the gradients, until the step
  std::optional<DeviceLr> device_lr_;  // on a device, if the schedule is not constant
  std::optional<GradScaler> scaler_;
  const Sharding* sharding_ = nullptr;  // null: this process steps all parameters
  Counters counters_;
  std::vector<Tensor> fused_norms_;  // of the last gradients; empty without fused_backward_pass
  Tensor fused_total_norm_;
  Tensor fused_is_nonfinite_;
  std::vector<NamedValue> value_sums_;  // since the last logging step; empty before the first step
  int64_t skipped_steps_ = 0;           // as read last
};

/// Stops the gradients of the parameters of all other updates until the scope ends.
class OnlyUpdate {
 public:
  OnlyUpdate(const std::vector<UpdateRun>& updates, std::size_t index);
  OnlyUpdate(const OnlyUpdate&) = delete;
  OnlyUpdate& operator=(const OnlyUpdate&) = delete;
  ~OnlyUpdate();

 private:
  std::vector<Tensor> stopped_;
};

/// The optimizer of an update: its own, or that of the flags.
OptimizerConfig config_of_optimizer(const Update& update, const TrainingConfig& config);
/// All options of an optimizer.
Json optimizer_json(const OptimizerConfig& config);

/// The updates of a task, checked against its modules.
/// @throws ConfigError for a name that is missing, not plain or used twice, a module that is unknown or
/// belongs to no update or to several, and a start_step below 0
std::vector<Update> checked_updates(const Task& task, const TrainingConfig& config);

}  // namespace internal
}  // namespace diffusers
