// The optimizer steps of a TrainingRun.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/parallel.h"
#include "core/require.h"
#include "training/loop/autocast.h"
#include "training/loop/training_run.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Adds the named values of a batch to those of the step.
/// @param over_step the share of a value in the step's mean
template <class F>
void add_values(const std::vector<NamedValue>& batch_values, F over_step,
                std::vector<NamedValue>& step_values) {
  const bool is_first = step_values.empty();
  require<TensorError>(is_first || batch_values.size() == step_values.size(),
                       "the task's loss has {} named values, expected {} as for the batch before",
                       batch_values.size(), step_values.size());
  for (std::size_t i = 0; i < batch_values.size(); ++i) {
    const auto& [name, value] = batch_values[i];
    require<TensorError>(value.defined() && value.dim() <= 1,
                         "the value \"{}\" of the task's loss is {}, expected 0-dim or [B]", name,
                         describe(value));
    const Tensor share = over_step(value.detach());
    if (is_first) {
      step_values.push_back({name, share});
    } else {
      require<TensorError>(name == step_values[i].name,
                           "the task's loss has the value \"{}\", expected \"{}\" as for the batch before",
                           name, step_values[i].name);
      step_values[i].value = step_values[i].value + share;
    }
  }
}

}  // namespace

void TrainingRun::train_step() {
  const double start = now_seconds();
  group_ = next_group();
  data_seconds_ += now_seconds() - start;
  generator_state_ = generator_.get_state();
  step_context_ = {.step = global_step_,
                   .samples = group_.samples,
                   .generator = generator_,
                   .cpu_data_parallel = batch_parts(group_.batches.front()),
                   .rows = group_.rows};
  task_.begin_step(step_context_);
  // One copy to the device for all updates.
  if (updates_.size() > 1)
    for (Batch& batch : group_.batches)
      if (batch.size() > 0) batch = to_device(batch);
  for (std::size_t i = 0; i < updates_.size(); ++i)
    if (updates_[i].runs_at(global_step_)) run_update(i);
  average();
  ++global_step_;
  if (device_.is_cpu())
    for (const UpdateRun& update : updates_) stop_if_nonfinite(update.nonfinite_in_row());
  images_since_log_ += group_.samples;
}

TrainingRun::Group TrainingRun::next_group() {
  Group group;
  while (static_cast<int64_t>(group.batches.size()) < config_.gradient_accumulation_steps) {
    std::optional<Batch> batch = loader_->next();
    // The end of an epoch ends a group, but a new group goes on with the next epoch.
    if (!batch && group.batches.empty()) batch = loader_->next();
    if (!batch) break;
    if (process_group_.is_connected()) {
      group.rows.push_back(loader_->rows());
      group.samples += group.rows.back().total;
      // A global batch may have fewer samples than there are processes.
      if (group.rows.back().begin == group.rows.back().end) {
        group.batches.emplace_back();
        epoch_ = loader_->epoch();
        continue;
      }
    }
    require<TensorError>(batch->images.defined() && batch->images.dim() > 0,
                         "the dataset gives a batch without images");
    require<TensorError>(batch->images.size(0) > 0,
                         "the dataset gives a batch of 0 samples, images are {}; expected 1 or more",
                         describe(batch->images));
    require_floating_images(batch->images);
    task_.check_batch(*batch);
    check_values(*batch);
    if (!process_group_.is_connected()) group.samples += batch->size();
    group.batches.push_back(std::move(*batch));
    epoch_ = loader_->epoch();
  }
  require(group.samples > 0, "the dataset gave no batch in epoch {}", epoch_);
  return group;
}

/// On the first batch, and as often as the first epoch is logged: a device is never asked for it later.
void TrainingRun::check_values(const Batch& batch) {
  const bool is_logged = epoch_ == 0 && (global_step_ + 1) % config_.logging_steps == 0;
  if (has_seen_data_ && !(is_logged && batch.images.is_cpu())) return;
  has_seen_data_ = true;
  if (const std::string warning = image_range_.look(batch.images); !warning.empty())
    log_message(LogLevel::kWarning, warning);
}

Batch TrainingRun::to_device(const Batch& batch) const {
  require_floating_images(batch.images);
  return batch.to(device_, dtype_);
}

void TrainingRun::run_update(std::size_t index) {
  UpdateRun& update = updates_[index];
  const OnlyUpdate only(updates_, index);
  const Backward result = backward(group_, index);
  const at::NoGradGuard no_grad;
  const OneIntraopThread one_thread(batch_parts_ > 1);  // norms: the same bits for any number
  const UpdateRun::Outcome outcome = update.inspect(result.loss, result.values);
  // Reading costs nothing on the CPU; a device is asked at logging steps alone.
  if (device_.is_cpu() && nonfinite_origin_.empty() && outcome.is_nonfinite.item<double>() > 0)
    nonfinite_origin_ = nonfinite_origin(index);
  update.step(global_step_, outcome.is_skipped);
}

TrainingRun::Backward TrainingRun::backward(const Group& group, std::size_t update) {
  const auto options = at::TensorOptions().dtype(dtype_).device(device_);
  const auto samples = static_cast<double>(group.samples);
  Backward result{at::zeros({}, options), {}};
  // The last batch of a step exchanges the gradients of all its batches.
  const auto add_gradients = [&](const Tensor& loss, const Batch& of) {
    if (reducers_.empty()) {
      updates_[update].scaled(loss).backward();
    } else {
      reducers_[update]->backward(updates_[update].scaled(loss), &of == &group.batches.back());
    }
  };
  for (const Batch& host_batch : group.batches) {
    if (host_batch.size() == 0) {
      if (&host_batch == &group.batches.back()) add_gradients(reducers_[update]->zero_loss(), host_batch);
      continue;
    }
    const Batch batch = to_device(host_batch);
    const int64_t batch_size = batch.size();
    StepLoss step_loss = [&] {
      const Autocast autocast(device_.type(), config_.mixed_precision);
      return task_.loss(batch, update);
    }();
    const Tensor& losses = step_loss.loss;
    require<TensorError>(
        losses.defined() && (losses.dim() == 0 || (losses.dim() == 1 && losses.size(0) == batch_size)),
        "the task's loss is {}, expected one value for each of {} samples, or 0-dim", describe(losses),
        batch_size);
    require<ConfigError>(losses.requires_grad(),
                         "the task's loss depends on none of the {} parameters that are trained",
                         updates_[update].parameters().size());
    // Divided by the samples of the whole step: small batches then add up to the large one, a short last one
    // included.
    const auto over_step = [&](const Tensor& each) {
      return each.dim() == 0 ? each * (static_cast<double>(batch_size) / samples) : each.sum() / samples;
    };
    const Tensor loss = over_step(losses);
    add_gradients(loss, host_batch);
    result.loss += loss.detach();
    add_values(step_loss.values, over_step, result.values);
  }
  process_group_.all_reduce(result.loss);
  return result;
}

void TrainingRun::average() {
  const at::NoGradGuard no_grad;
  const OneIntraopThread one_thread(batch_parts_ > 1);
  if (trainer_.ema_) trainer_.ema_->step();
  for (PowerAverage& average : power_averages_) average.ema.step(average.parameters);
}

}  // namespace internal
}  // namespace diffusers
