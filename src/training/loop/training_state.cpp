// What a TrainingRun writes to disk: checkpoints and the final folder.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "io/posix_file.h"
#include "training/checkpoint/checkpoint_files.h"
#include "training/checkpoint/checkpoint_writer.h"
#include "training/loop/random_state.h"
#include "training/loop/training_run.h"

namespace diffusers {
namespace {

bool all_finite(const std::vector<Tensor>& tensors) {
  Tensor finite;
  for (const Tensor& tensor : tensors) {
    if (!tensor.defined() || !at::isFloatingType(tensor.scalar_type()) || tensor.numel() == 0) continue;
    const Tensor here = tensor.detach().isfinite().all();
    finite = finite.defined() ? finite.logical_and(here) : here;
  }
  return !finite.defined() || finite.item<bool>();
}

/// Puts a prefix before each name.
void insert_with_prefix(TensorMap& into, const std::string& prefix, const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) into.insert(prefix + name, tensor);
}

}  // namespace

Json TrainingRun::state_json() const {
  Json state = {
      {"version", 1},
      {"global_step", global_step_},
      {"total_steps", total_steps_},
      {"epoch", epoch_},
      {"loader", {{"epoch", loader_->position().epoch}, {"index", loader_->position().index}}},
      {"seed", seed_},
      {"dataset_size", dataset_size_},
      {"train_batch_size", config_.train_batch_size},
      {"gradient_accumulation_steps", config_.gradient_accumulation_steps},
      {"optimizer", std::string(config_.optimizer.name())},
      {"mixed_precision", std::string(enum_name(config_.mixed_precision))},
      {"device", device_.str()},
      {"last_loss", last_loss_},
      {"use_ema", trainer_.ema_ != nullptr},
      {"dtype", dtype_name(dtype_)},
      {"training_config", parse_json(config_.to_json(), "the training config")},
      {"task", parse_json(task_.config_json(), "config_json() of the task")},
  };
  if (trainer_.ema_) state["ema_optimization_step"] = trainer_.ema_->optimization_step();
  return state;
}

TensorMap TrainingRun::state_tensors() const {
  TensorMap tensors;
  insert_with_prefix(tensors, kRandomPrefix, global_random_state(device_));
  {
    Generator generator = generator_;
    tensors.insert("noise_generator", generator.get_state());
  }
  tensors.insert("loss_sum", counters_.loss_sum);
  tensors.insert("finite_steps", counters_.finite_steps);
  tensors.insert("nonfinite_in_row", counters_.nonfinite_in_row);
  tensors.insert("worst_row", counters_.worst_row);
  tensors.insert("skipped_steps", counters_.skipped_steps);
  if (scaler_) insert_with_prefix(tensors, kScalerPrefix, scaler_->state_dict());
  insert_with_prefix(tensors, kTaskPrefix, task_.state());
  for (const PowerAverage& average : power_averages_)
    insert_with_prefix(tensors, post_hoc_prefix(average.model), average.ema.state_dict());
  return tensors;
}

void TrainingRun::require_finite_state() const {
  const char* advice = "nothing was saved; the checkpoints before are whole";
  require(all_finite(parameters_), "the weights are not finite at step {}: {}", global_step_, advice);
  if (trainer_.ema_)
    require(all_finite(trainer_.ema_->tensors()), "the averaged weights are not finite at step {}: {}",
            global_step_, advice);
  std::vector<Tensor> moments;
  for (const auto& entry : trainer_.optimizer_->state_dict()) moments.push_back(entry.second);
  require(all_finite(moments), "the optimizer's moments are not finite at step {}: {}", global_step_, advice);
}

SnapshotWriter TrainingRun::model_writer(const TrainedModel& trained, bool is_average, bool is_copied) const {
  const TrainingAverage* ema = is_average ? trainer_.ema_.get() : nullptr;
  SnapshotWriter write;
  if (is_copied) {
    const AveragedWeights averaged(parameters_, ema);
    write = trained.model->snapshot();
    if (!write) return {};
  } else {
    write = [this, &trained, ema](const std::string& folder) {
      const AveragedWeights averaged(parameters_, ema);
      trained.model->save_pretrained(folder);
    };
  }
  // Python's EMAModel reads its state from config.json. A LitEma has none there.
  if (ema == nullptr || ema->ema_model() == nullptr) return write;
  return [write, state = ema->ema_model()->state()](const std::string& folder) {
    write(folder);
    if (file_exists(join_path(folder, "config.json"))) save_ema_state(state, folder);
  };
}

/// @param is_copied false: what is in the content is the training's own, and must be written before it goes
/// on
/// @return without models if one of them cannot be copied
CheckpointContent TrainingRun::checkpoint_content(bool is_copied) {
  CheckpointContent content;
  content.output_dir = config_.output_dir;
  content.step = global_step_;
  content.total_limit = config_.checkpoints_total_limit;
  content.logs = metrics_->paths();
  if (tensorboard_) content.logs.push_back(tensorboard_->path());
  for (const TrainedModel& trained : task_.models()) {
    for (const bool is_average : {false, true}) {
      if (is_average && !trainer_.ema_) continue;
      SnapshotWriter write = model_writer(trained, is_average, is_copied);
      if (!write) return {};
      content.models.emplace_back(trained.name + (is_average ? kAverageSuffix : ""), std::move(write));
    }
  }
  const auto taken = [&](TensorMap tensors) { return is_copied ? host_copy(tensors) : std::move(tensors); };
  content.tensors[kOptimizerFile] = taken(trainer_.optimizer_->state_dict());
  content.tensors[kTensorFile] = taken(state_tensors());
  content.texts[kStateFile] = dump_json(state_json());
  return content;
}

void TrainingRun::save_checkpoint() {
  // Before anything is copied, so that there is one copy at a time.
  checkpoint_writer_.wait();
  if (last_saved_step_ == global_step_) return;
  require_finite_state();
  CheckpointContent content;
  if (config_.background_checkpoints) content = checkpoint_content(/*is_copied=*/true);
  if (content.models.empty()) {
    write_checkpoint(checkpoint_content(/*is_copied=*/false));
  } else {
    checkpoint_writer_.start(std::move(content));
  }
  last_saved_step_ = global_step_;
}

void TrainingRun::save_power_ema() {
  for (const PowerAverage& average : power_averages_) {
    const std::string folder = join_path(join_path(config_.output_dir, "power_ema"), average.model);
    create_folders(folder);
    average.ema.save_snapshots(folder);
  }
}

void TrainingRun::save_final() {
  checkpoint_writer_.wait();
  require_finite_state();
  // As train_text_to_image.py does: who samples from the model now gets the average.
  if (trainer_.ema_) trainer_.ema_->copy_to_parameters();
  for (const TrainedModel& trained : task_.models()) {
    StagedFolder folder(join_path(config_.output_dir, trained.name));
    trained.model->save_pretrained(folder.stage());
    folder.publish();
  }
  task_.save_extras(config_.output_dir);
}

}  // namespace diffusers
