// Writes the checkpoints and the final folder of a TrainingRun.

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>

#include "core/host_copy.h"
#include "core/require.h"
#include "io/posix_file.h"
#include "io/staged_folder.h"
#include "training/checkpoint/checkpoint_files.h"
#include "training/checkpoint/checkpoint_writer.h"
#include "training/checkpoint/host_memory.h"
#include "training/loop/random_state.h"
#include "training/loop/training_run.h"

namespace diffusers {
inline namespace internal {
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

}  // namespace

Json TrainingRun::state_json() const {
  Json state = {
      {"version", 1},
      {"global_step", global_step_},
      {"total_steps", total_steps_},
      {"epoch", epoch_},
      {"loader", {{"epoch", loader_->position().epoch}, {"index", loader_->position().index}}},
      {"seed", seed_},
      {"dataset_size", data_.size() ? Json(*data_.size()) : Json()},
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
  if (data_.is_iterable()) state[kIterableKey] = true;
  if (const std::string order = data_.order_key(); !order.empty()) state[kDataOrderKey] = order;
  if (const int64_t threads = data_.sharing_threads(config_); threads > 0)
    state[kReadingThreadsKey] = threads;
  if (batch_parts_ > 0) state["cpu_data_parallel"] = batch_parts_;
  if (process_group_.world_size() > 1) state[kWorldSizeKey] = process_group_.world_size();
  for (const UpdateRun& update : updates_) state["updates"].push_back(update.config_json());
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
  insert_with_prefix(tensors, "", rank_random_states_);
  for (const UpdateRun& update : updates_)
    insert_with_prefix(tensors, update_prefix(update.name(), &update == &updates_.front()), update.state());
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
  for (const UpdateRun& update : updates_)
    for (const auto& entry : update.optimizer()->state_dict()) moments.push_back(entry.second);
  require(all_finite(moments), "the optimizer's moments are not finite at step {}: {}", global_step_, advice);
}

SnapshotWriter TrainingRun::model_writer(const NamedModule& named, bool is_average, bool is_copied) const {
  const TrainingAverage* ema = is_average ? trainer_.ema_.get() : nullptr;
  SnapshotWriter write;
  if (is_copied) {
    const AveragedWeights averaged(averaged_, ema);
    write = named.module->snapshot();
    if (!write) return {};
  } else {
    write = [this, &named, ema](const std::filesystem::path& folder) {
      const AveragedWeights averaged(averaged_, ema);
      named.module->save(folder);
    };
  }
  // Python's EMAModel reads its state from config.json. A LitEma has none there.
  if (ema == nullptr || ema->ema_model() == nullptr) return write;
  return [write, state = ema->ema_model()->state()](const std::filesystem::path& folder) {
    write(folder);
    if (file_exists((folder / "config.json").string())) save_ema_state(state, folder.string());
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
  for (const NamedModule& named : task_.trained()) {
    for (const bool is_average : {false, true}) {
      if (is_average && !(trainer_.ema_ && named.is_averaged)) continue;
      SnapshotWriter write = model_writer(named, is_average, is_copied);
      if (!write) return {};
      content.models.emplace_back(named.name + (is_average ? kAverageSuffix : ""), std::move(write));
    }
  }
  const auto taken = [&](TensorMap tensors) { return is_copied ? host_copy(tensors) : std::move(tensors); };
  for (std::size_t i = 0; i < updates_.size(); ++i) {
    TensorMap moments = taken(updates_[i].optimizer()->state_dict());
    // Those of other processes were made for this checkpoint.
    if (sharding_)
      for (const auto& [name, tensor] : gathered_moments_[i])
        if (!moments.contains(name)) moments.insert(name, tensor);
    content.tensors[optimizer_file(updates_[i].name(), i == 0)] = std::move(moments);
  }
  content.tensors[kTensorFile] = taken(state_tensors());
  content.texts[kStateFile] = dump_json(state_json());
  return content;
}

/// A copy that does not fit would make the host swap, or end the process.
bool TrainingRun::can_copy_checkpoint() {
  int64_t bytes = 0;
  const auto add = [&](const Tensor& tensor) {
    if (tensor.defined()) bytes += static_cast<int64_t>(tensor.nbytes());
  };
  for (const NamedModule& named : task_.trained()) {
    for (const Tensor& parameter : named.module->module().parameters()) add(parameter);
    for (const Tensor& buffer : named.module->module().buffers()) add(buffer);
  }
  if (trainer_.ema_)
    for (const Tensor& average : trainer_.ema_->tensors()) add(average);
  for (const UpdateRun& update : updates_)
    for (const auto& entry : update.optimizer()->state_dict()) add(entry.second);
  for (const auto& entry : state_tensors()) add(entry.second);
  const std::optional<HostMemory> memory = current_host_memory();
  if (has_room_for_copy(bytes, memory)) return true;
  if (!std::exchange(has_warned_of_memory_, true)) {
    const auto gigabytes = [](int64_t count) { return static_cast<double>(count) / 1e9; };
    log_message(LogLevel::kWarning,
                fmt::format("{:.1f} GB of the host's memory are free; expected {:.1f} GB for a copy of the "
                            "checkpoint and {:.1f} GB for the next step: the checkpoint is written without a "
                            "copy while the training waits, as with background_checkpoints = false",
                            gigabytes(memory->available), gigabytes(bytes),
                            gigabytes(memory->peak_resident - memory->resident)));
  }
  return false;
}

void TrainingRun::save_checkpoint() {
  // Before anything is copied, so that there is one copy at a time.
  checkpoint_writer_.wait();
  if (last_saved_step_ == global_step_) return;
  require_finite_state();
  gather_for_checkpoint();
  if (process_group_.is_main()) write_gathered_checkpoint();
  gathered_moments_.clear();
  if (trainer_.ema_) trainer_.ema_->release_whole();
  last_saved_step_ = global_step_;
}

void TrainingRun::write_gathered_checkpoint() {
  CheckpointContent content;
  if (config_.background_checkpoints && can_copy_checkpoint())
    content = checkpoint_content(/*is_copied=*/true);
  if (content.models.empty()) {
    write_checkpoint(checkpoint_content(/*is_copied=*/false));
  } else {
    checkpoint_writer_.start(std::move(content));
  }
}

void TrainingRun::save_power_ema() {
  if (!process_group_.is_main()) return;
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
  if (trainer_.ema_) {
    trainer_.ema_->copy_to_parameters();
    if (sharding_) sharding_->share_parameters(trainable_);
  }
  if (!process_group_.is_main()) return;
  for (const NamedModule& named : task_.trained()) {
    StagedFolder folder(join_path(config_.output_dir, named.name));
    named.module->save(folder.stage());
    folder.publish();
  }
  task_.save_extras(config_.output_dir);
}

}  // namespace internal
}  // namespace diffusers
