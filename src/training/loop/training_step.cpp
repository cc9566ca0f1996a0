// The optimizer steps of a TrainingRun.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/parallel.h"
#include "core/part_threads.h"
#include "core/require.h"
#include "training/loop/training_run.h"
#include "training/tasks/prior_preservation.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Returns how many rows the batches have for a sample of the dataset: 2 for DreamBooth's instance and class
/// image, else 1.
int64_t rows_of_a_sample(const std::vector<Batch>& batches, const std::vector<BatchRows>& samples) {
  for (std::size_t i = 0; i < batches.size(); ++i)
    if (const int64_t count = samples[i].end - samples[i].begin; count > 0) return batches[i].size() / count;
  return 1;
}

}  // namespace

void TrainingRun::train_step() {
  // Encoders of whole batches need all threads.
  const OneThreadBetweenParts one_thread(batch_parts_ > 1 && task_.frozen().empty() &&
                                         task_.batch_split().is_automatic);
  const double start = now_seconds();
  group_ = next_group();
  data_seconds_ += now_seconds() - start;
  generator_state_ = generator_.get_state();
  step_context_ = {.step = global_step_,
                   .samples = group_.samples,
                   .generator = generator_,
                   .cpu_data_parallel = batch_parts(group_.batches.front()),
                   .has_class_images = have_class_images(group_.batches),
                   .rows = group_.rows};
  task_.begin_step(step_context_);
  // One copy to the device for all updates.
  if (updates_.size() > 1)
    for (Batch& batch : group_.batches) batch = to_device(batch);
  for (std::size_t i = 0; i < updates_.size(); ++i)
    if (updates_[i].runs_at(global_step_)) run_update(i);
  average();
  if (group_.has_idle_process) share_generator();
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
  const int64_t rows = group.rows.empty() ? 1 : rows_of_a_sample(group.batches, group.rows);
  share_stand_ins(group);
  for (BatchRows& batch : group.rows) {
    group.has_idle_process |= batch.total < process_group_.world_size();
    batch = {.begin = rows * batch.begin, .end = rows * batch.end, .total = rows * batch.total};
    group.samples += batch.total;
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
  // The kernels move the average in the pass of the step, if they step all that is averaged.
  std::optional<FusedAverage> average;
  const bool is_only = updates_.size() == 1 && trainer_.ema_ != nullptr;
  if (is_only && update.uses_kernels()) average = trainer_.ema_->begin_fused_step();
  is_averaged_ = update.step(global_step_, outcome.is_skipped, average ? &*average : nullptr);
  if (average && !is_averaged_) trainer_.ema_->set_optimization_step(trainer_.ema_->optimization_step() - 1);
}

void TrainingRun::average() {
  const at::NoGradGuard no_grad;
  const OneIntraopThread one_thread(batch_parts_ > 1);
  if (trainer_.ema_ && !std::exchange(is_averaged_, false)) trainer_.ema_->step();
  for (PowerAverage& average : power_averages_) average.ema.step(average.parameters);
}

}  // namespace internal
}  // namespace diffusers
