// Logs the steps of a TrainingRun, and handles non-finite steps.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/training/report.h>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>

#include "core/host_copy.h"
#include "core/require.h"
#include "data/batch_fields.h"
#include "io/posix_file.h"
#include "training/loop/autocast.h"
#include "training/loop/nonfinite_probe.h"
#include "training/loop/slow_bf16.h"
#include "training/loop/training_run.h"

namespace diffusers {
inline namespace internal {
namespace {

int64_t count_elements(const std::vector<Tensor>& tensors) {
  int64_t count = 0;
  for (const Tensor& tensor : tensors) count += tensor.numel();
  return count;
}

/// The most that was used at once: on a device what its allocator gave out, else of the whole process.
int64_t memory_in_use(at::Device device) {
  if (!device.is_cuda()) return peak_memory_bytes();
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return stats.allocated_bytes[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
}

}  // namespace

/// Loss, learning rate and gradient norm of every update but the first, and the named values of all.
std::vector<LoggedValue> TrainingRun::named_values(const std::vector<UpdateRun::Log>& logs) const {
  std::vector<LoggedValue> values;
  for (std::size_t i = 0; i < logs.size(); ++i) {
    const UpdateRun::Log& log = logs[i];
    const std::string prefix = i == 0 ? "" : updates_[i].name() + "/";
    if (i > 0 && updates_[i].runs_at(global_step_ - 1)) {
      if (log.loss) values.emplace_back(prefix + "loss", *log.loss);
      values.emplace_back(prefix + "lr", log.lr);
      values.emplace_back(prefix + "grad_norm", log.grad_norm);
    }
    for (const auto& [name, value] : log.values) values.emplace_back(prefix + name, value);
  }
  return values;
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void begin_train_mode(const Task& task) {
  for (const NamedModule& named : task.trained())
    if (!named.module->module().is_training()) named.module->module().train();
}

void set_eval_mode(const Task& task) {
  for (const NamedModule& named : task.trained()) named.module->module().eval();
}

bool warn_of_cpu_training(at::Device device, int64_t cpu_data_parallel, bool has_cuda) {
  // Who cuts batches into parts for the CPU has chosen it.
  if (!device.is_cpu() || cpu_data_parallel > 1 || !has_cuda) return false;
  log_message(
      LogLevel::kWarning,
      "the training runs on the CPU, where the model is, although a CUDA device is available; move the "
      "model before the training: model->to(torch::kCUDA)");
  return true;
}

void warn_of_slow_training(at::Device device, const TrainingConfig& config) {
  warn_of_cpu_training(device, config.cpu_data_parallel, at::hasCUDA());
  warn_of_slow_bf16(device, config.mixed_precision, processor_multiplies_bf16());
}

EvaluationScope::EvaluationScope(const Task& task, at::Device device, const std::vector<Tensor>& parameters,
                                 const TrainingAverage* ema)
    : random_state_(device), averaged_(parameters, ema) {
  for (const NamedModule& named : task.trained()) modes_.emplace_back(named.module->module());
  set_eval_mode(task);
}

EvaluationScope::~EvaluationScope() {
  for (const ModuleModes& modes : modes_) modes.restore();
}

/// The one place where the host waits for the device.
std::vector<UpdateRun::Log> TrainingRun::read_updates() {
  std::vector<Tensor> tensors;
  std::vector<std::size_t> first;
  for (const UpdateRun& update : updates_) {
    first.push_back(tensors.size());
    for (const Tensor& tensor : update.log_tensors()) tensors.push_back(tensor);
  }
  const Tensor values = at::stack(tensors).to(at::kCPU, at::kDouble);
  std::vector<UpdateRun::Log> logs;
  for (std::size_t i = 0; i < updates_.size(); ++i)
    logs.push_back(updates_[i].log(values.const_data_ptr<double>() + first[i], global_step_));
  return logs;
}

void TrainingRun::report_skipped(int64_t newly_skipped, bool is_nonfinite) {
  if (newly_skipped <= 0) return;
  if (is_nonfinite && nonfinite_origin_.empty()) nonfinite_origin_ = nonfinite_origin(0);
  log_message(LogLevel::kWarning,
              fmt::format("{} steps up to step {} were skipped: the loss or a gradient was not finite{}",
                          newly_skipped, global_step_,
                          nonfinite_origin_.empty() ? "" : "; first in " + nonfinite_origin_));
}

void TrainingRun::log() {
  checkpoint_writer_.check();
  const double start = now_seconds();
  for (UpdateRun& update : updates_) update.join_values(process_group_);
  const std::vector<UpdateRun::Log> logs = read_updates();
  training_seconds_ += now_seconds() - start;
  int64_t newly_skipped = 0;
  int64_t worst_row = 0;
  bool is_nonfinite = false;
  for (const UpdateRun::Log& log : logs) {
    newly_skipped += log.newly_skipped;
    worst_row = std::max(worst_row, log.worst_row);
    is_nonfinite = is_nonfinite || log.row > 0;
  }
  skipped_steps_ += newly_skipped;
  report_skipped(newly_skipped, is_nonfinite);
  for (UpdateRun& update : updates_) update.settle(global_step_);
  stop_if_nonfinite(worst_row);
  nonfinite_origin_.clear();
  if (logs.front().loss) last_loss_ = *logs.front().loss;
  if (!process_group_.is_main()) return;

  TrainingProgress progress;
  progress.step = global_step_;
  progress.total_steps = total_steps_;
  progress.epoch = epoch_;
  progress.loss = last_loss_;
  progress.lr = logs.front().lr;
  progress.grad_norm = logs.front().grad_norm;
  progress.values = named_values(logs);
  progress.images_per_second =
      static_cast<double>(images_since_log_) / std::max(1e-9, training_seconds_ - logged_seconds_);
  progress.elapsed_seconds = training_seconds_;
  progress.eta_seconds = training_seconds_ /
                         static_cast<double>(std::max<int64_t>(1, global_step_ - first_step_)) *
                         static_cast<double>(total_steps_ - global_step_);
  progress.skipped_steps = skipped_steps_;
  progress.data_wait_share =
      std::clamp(data_seconds_ / std::max(1e-9, training_seconds_ - logged_seconds_), 0.0, 1.0);
  progress.memory_bytes = memory_in_use(device_);
  data_seconds_ = 0.0;
  images_since_log_ = 0;
  logged_seconds_ = training_seconds_;
  display_->show(progress);
  metrics_->append(progress);
  if (tensorboard_) {
    tensorboard_->add_scalar("train/loss", progress.loss, progress.step);
    tensorboard_->add_scalar("train/lr", progress.lr, progress.step);
    tensorboard_->add_scalar("train/grad_norm", progress.grad_norm, progress.step);
    for (const auto& [name, value] : progress.values)
      tensorboard_->add_scalar("train/" + name, value, progress.step);
    tensorboard_->add_scalar("speed/images_per_second", progress.images_per_second, progress.step);
    tensorboard_->add_scalar("speed/data_wait_share", progress.data_wait_share, progress.step);
    tensorboard_->add_scalar("speed/memory_bytes", static_cast<double>(progress.memory_bytes), progress.step);
  }
  if (trainer_.on_log_) trainer_.on_log_(progress);
}

void TrainingRun::stop_if_nonfinite(int64_t steps_in_row) {
  require(steps_in_row < config_.max_nonfinite_steps,
          "training stopped at step {}: the loss or the gradients were not finite in {} steps in a row "
          "(max_nonfinite_steps is {}){}; the weights are those before",
          global_step_, steps_in_row, config_.max_nonfinite_steps,
          nonfinite_origin_.empty() ? "" : ", first in " + nonfinite_origin_);
}

/// Computes the last step once more, watched.
std::string TrainingRun::nonfinite_origin(std::size_t update) {
  NamedTensors parameters;
  NamedTensors gradients;  // or their norms
  for (const NamedModule& named : task_.trained()) {
    for (const auto& parameter : named.module->module().named_parameters()) {
      parameters.emplace_back(parameter.key(), parameter.value());
      gradients.emplace_back(parameter.key(), updates_[update].gradient_or_norm(parameter.value()));
    }
  }
  for (const Batch& batch : group_.batches) {
    NamedTensors fields;
    for_each_tensor(batch, [&](const BatchField& about, const Tensor& field) {
      if (field.is_floating_point()) fields.emplace_back(about.name, field);
    });
    if (const auto name = find_nonfinite(fields)) return "the " + *name + " of the batch";
  }
  if (const auto name = find_nonfinite(parameters)) return "the parameter " + *name;

  const RandomStateGuard random_state(device_);
  const Tensor state = generator_.get_state();
  const TensorMap task_state = host_copy(task_.state());  // a task may learn from a loss
  // Each process computes its own samples alone. Running statistics have to stay the same in all of them.
  std::vector<std::pair<Tensor, Tensor>> buffers;
  if (process_group_.is_connected())
    for (const NamedModule& named : task_.trained())
      for (const Tensor& buffer : named.module->module().buffers())
        buffers.emplace_back(buffer, buffer.clone());
  generator_.set_state(generator_state_);
  task_.begin_step(step_context_);
  const std::optional<std::string> output = find_nonfinite_output(parameters, [&] {
    const Autocast autocast(device_.type(), config_.mixed_precision);
    for (const Batch& batch : group_.batches) task_.loss(to_device(batch), update);
  });
  generator_.set_state(state);
  task_.load_state(task_state);
  for (const auto& [buffer, before] : buffers) buffer.copy_(before);
  if (output) return "the output of " + *output;
  if (const auto name = find_nonfinite(gradients)) return "the gradient of " + *name;
  return "the backward pass";
}

void TrainingRun::require_progress() const {
  for (const UpdateRun& update : updates_) {
    const int64_t steps = global_step_ - update.start_step();
    require(
        steps <= 0 || update.skipped_steps() < steps,
        "all {} steps{} were skipped, as the loss or a gradient was not finite: the model has not learned "
        "anything, and is not published; try mixed_precision \"no\" or \"bf16\", and check the data and the "
        "initial weights",
        steps, update.name().empty() ? "" : fmt::format(" of the update \"{}\"", update.name()));
  }
}

void TrainingRun::preview() {
  if (!trainer_.on_preview_ || last_preview_step_ == global_step_ || !process_group_.is_main() || must_stop())
    return;
  last_preview_step_ = global_step_;
  const EvaluationScope evaluation(task_, device_, averaged_, trainer_.ema_.get());
  PreviewContext context{.step = global_step_,
                         .total_steps = total_steps_,
                         .epoch = epoch_,
                         .output_dir = config_.output_dir,
                         .log_images = {},
                         .stop_requested = [this] { return must_stop(); }};
  context.log_images = [&](const std::string& name, const Tensor& images, const ImageGridOptions& options) {
    log_images(name, images, options);
  };
  trainer_.on_preview_(context);
}

void TrainingRun::log_validation(const ValidationResult& result) {
  std::string values;
  for (const auto& [name, value] : result.values) values += fmt::format(", {} {:.4g}", name, value);
  display_->message(fmt::format("step {}: validation loss {:.4f}{}", result.step, result.loss, values));
  metrics_->append_validation(result);
  if (tensorboard_) {
    tensorboard_->add_scalar("validation/loss", result.loss, result.step);
    for (const auto& [name, value] : result.values)
      tensorboard_->add_scalar("validation/" + name, value, result.step);
    std::vector<double> known;
    for (std::size_t bin = 0; bin < result.bin_losses.size(); ++bin) {
      if (!std::isfinite(result.bin_losses[bin])) continue;  // without an example
      tensorboard_->add_scalar(fmt::format("validation_by_timestep/bin_{:02}", bin), result.bin_losses[bin],
                               result.step);
      known.push_back(result.bin_losses[bin]);
    }
    if (!known.empty())
      tensorboard_->add_histogram("validation/bin_losses", at::tensor(known, at::kDouble), result.step);
  }
  if (trainer_.on_validation_) trainer_.on_validation_(result);
}

void TrainingRun::open_tensorboard() {
  if (!config_.tensorboard) return;
  const std::optional<int64_t> purge_step =
      global_step_ > 0 ? std::optional<int64_t>(global_step_ + 1) : std::nullopt;
  tensorboard_ =
      std::make_unique<TensorBoardWriter>(join_path(config_.output_dir, config_.logging_dir), purge_step);
  if (global_step_ == 0)
    tensorboard_->add_text("training_config", "```json\n" + config_.to_json() + "\n```", 0);
}

void TrainingRun::save_report() const {
  if (!config_.report) return;
  std::string models;
  for (const NamedModule& named : task_.trained()) models += (models.empty() ? "" : ", ") + named.name;
  save_training_report({.title = "Training of " + models,
                        .figures = {{"Device", device_.str()},
                                    {"Trained parameters", std::to_string(count_elements(trainable_))},
                                    {"Dataset", data_.description()}},
                        .rows = metrics_->rows(),
                        .validations = metrics_->validations(),
                        .grids = find_report_grids(join_path(config_.output_dir, "previews"), global_step_),
                        .config_json = config_.to_json()},
                       join_path(config_.output_dir, "report.html"));
}

void TrainingRun::log_images(const std::string& name, const Tensor& images, const ImageGridOptions& options) {
  require_plain_basename(name, "the name of a picture");
  const std::string folder = join_path(config_.output_dir, "previews");
  create_folders(folder);
  save_image_grid(images, join_path(folder, fmt::format("{}-{}.png", name, global_step_)), options);
  if (tensorboard_) tensorboard_->add_image("previews/" + name, make_grid(images, options), global_step_);
}

}  // namespace internal
}  // namespace diffusers
