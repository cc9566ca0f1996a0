// Reads the checkpoint from which a TrainingRun resumes.

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>
#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "core/require.h"
#include "io/manifest.h"
#include "io/posix_file.h"
#include "training/checkpoint/checkpoint_files.h"
#include "training/checkpoint/output_folder.h"
#include "training/checkpoint/resume_rules.h"
#include "training/loop/random_state.h"
#include "training/loop/training_run.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Reads a part of a checkpoint: whatever does not fit is an error of that file.
template <class Function>
void read_part_of(const std::string& path, Function read) {
  try {
    read();
  } catch (const FileError&) {
    throw;
  } catch (const ConfigError&) {
    throw;  // the file is fine, and of another training
  } catch (const Error& error) {
    fail<FileError>("{}: {}", escaped(path), error.what());
  } catch (const Json::exception& error) {
    fail<FileError>("{}: {}", escaped(path), json_reason(error));
  } catch (const c10::Error& error) {
    fail<FileError>("{}: {}", escaped(path), error.what_without_backtrace());
  }
}

int64_t state_integer(const Json& state, const char* key, const std::string& where) {
  require<FileError>(state.is_object() && state.contains(key), "{} is not a trainer state: it lacks \"{}\"",
                     escaped(where), key);
  const Json& value = state[key];
  const bool is_valid =
      value.is_number_integer() && (value.is_number_unsigned() || value.get<int64_t>() >= 0);
  require<FileError>(is_valid && value.get<uint64_t>() <= uint64_t{INT64_MAX},
                     "{}: \"{}\" is {}, expected an integer of 0 or more", escaped(where), key,
                     json_excerpt(value));
  return value.get<int64_t>();
}

/// Values that are not finite are never saved: such a file is damaged.
void require_finite(const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors)
    require<TensorError>(!at::isFloatingType(tensor.scalar_type()) || tensor.isfinite().all().item<bool>(),
                         "\"{}\", {}, holds values that are not finite", name, describe(tensor));
}

/// "cuda" of "cuda:0"
std::string type_of_device(const std::string& device) { return device.substr(0, device.find(':')); }

void require_same_task(const Json& saved, const Json& ours, const std::string& where) {
  if (!saved.is_object()) return;
  require<ConfigError>(!saved.contains("_class_name") || ours.contains("_class_name"),
                       "the checkpoint was trained by the task {}, and this is another one ({})",
                       json_excerpt(saved.value("_class_name", Json())), escaped(where));
  require_same_config(saved, ours, "the task", where);
}

/// Of a model with a config: layers of another kind may have parameters of the same shapes.
void require_same_model(const NamedModule& named, const std::string& folder) {
  const std::string path = join_path(join_path(folder, named.name), "config.json");
  const std::string config = named.module->config_json();
  if (config.empty() || !file_exists(path)) return;
  require_same_config(parse_json(read_text_file(path), path),
                      parse_json(config, "config_json() of the model"), named.name, path);
}

std::string without_last_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

std::vector<std::string> TrainingRun::model_names() const {
  std::vector<std::string> names;
  for (const NamedModule& named : task_.trained()) names.push_back(named.name);
  return names;
}

void TrainingRun::require_free_output_dir() const {
  const std::string found = earlier_results(config_.output_dir, model_names());
  require<ConfigError>(found.empty() || config_.overwrite_output_dir,
                       "output_dir is {}, which holds {}, of another training; set resume_from_checkpoint to "
                       "\"latest\" to go on with its checkpoints, overwrite_output_dir to remove it, or "
                       "choose another folder",
                       escaped(config_.output_dir), found);
}

bool TrainingRun::resume() {
  finish_removing(config_.output_dir, model_names(), config_.logging_dir);
  finish_setting_aside(config_.output_dir);
  if (!config_.resume_from_checkpoint) return false;
  const std::string wanted = without_last_slashes(*config_.resume_from_checkpoint);
  if (wanted != "latest") {
    resume_named(wanted);
    return true;
  }

  const std::vector<int64_t> steps = list_checkpoints(config_.output_dir);
  if (steps.empty()) {
    log_message(LogLevel::kWarning,
                fmt::format("resume_from_checkpoint is \"latest\", but {} holds no checkpoint; a new "
                            "training starts",
                            config_.output_dir));
    return false;
  }
  const std::vector<int64_t> newest_first(steps.rbegin(), steps.rend());
  for (const int64_t step : newest_first) {
    const std::string path = checkpoint_path(config_.output_dir, step);
    try {
      verify_manifest(path);
    } catch (const FileError& error) {
      log_message(LogLevel::kWarning, fmt::format("{} is damaged and passed over: {}", path, error.what()));
      continue;
    }
    load_checkpoint(path);
    remove_outputs_after(config_.output_dir, global_step_);
    return true;
  }
  fail<FileError>(
      "resume_from_checkpoint is \"latest\", but none of the {} checkpoints in {} is whole; the training "
      "does not start again from step 0 by itself",
      steps.size(), config_.output_dir);
}

void TrainingRun::resume_named(const std::string& wanted) {
  const std::string name = base_name(wanted);
  const std::string inside = join_path(config_.output_dir, name);
  const std::string path = folder_exists(wanted) ? wanted : inside;
  if (!folder_exists(path)) {
    const std::string aside = find_set_aside(config_.output_dir, name);
    fail<FileError>(
        "resume_from_checkpoint is {}: there is no such folder, nor {}{}", escaped(wanted), escaped(inside),
        aside.empty() ? ""
                      : fmt::format("; when the training went on from an older checkpoint, it was "
                                    "moved to {}, from where another output_dir can go on",
                                    aside));
  }
  const int64_t step = checkpoint_step(name);
  const bool is_own = step >= 0 && is_same_folder(path, inside);
  if (!is_own) require_free_output_dir();
  verify_manifest(path);
  load_checkpoint(path);
  if (is_own) {
    // The branch that is left: "latest" must not find it again, even if this process ends before its first
    // checkpoint.
    set_aside_after(config_.output_dir, step);
    remove_outputs_after(config_.output_dir, step);
  } else {
    if (config_.overwrite_output_dir)
      remove_earlier_training(config_.output_dir, model_names(), config_.logging_dir,
                              /*keep_abandoned=*/true);
    is_from_elsewhere_ = true;
  }
}

void TrainingRun::load_checkpoint(const std::string& folder) {
  const std::string state_path = join_path(folder, kStateFile);
  const Json state = parse_json(read_text_file(state_path), state_path);
  load_state_json(state, state_path);
  for (const NamedModule& named : task_.trained()) {
    require_same_model(named, folder);
    named.module->load(join_path(folder, named.name));
  }
  if (trainer_.ema_) {
    if (sharding_) trainer_.ema_->hold_whole();
    // Loaded into the average by way of the parameters, whose places it takes for a moment.
    const AveragedWeights averaged(averaged_, trainer_.ema_.get());
    for (const NamedModule& named : task_.trained())
      if (named.is_averaged) named.module->load(join_path(folder, named.name + kAverageSuffix));
  }
  for (const UpdateRun& update : updates_) {
    const std::string path = join_path(folder, optimizer_file(update.name(), &update == &updates_.front()));
    read_part_of(path, [&] {
      const TensorMap moments = load_safetensors(path);
      for (const auto& [name, tensor] : moments)
        require<TensorError>(at::isFloatingType(tensor.scalar_type()),
                             "\"{}\" is {}, expected floating numbers", name, describe(tensor));
      require_finite(moments);
      update.optimizer()->load_state_dict(moments);
    });
  }
  const std::string tensor_path = join_path(folder, kTensorFile);
  std::string saved_device;
  read_part_of(state_path, [&] { saved_device = state.at("device").get<std::string>(); });
  read_part_of(tensor_path, [&] {
    const TensorMap tensors = load_safetensors(tensor_path);
    load_state_tensors(tensors);
    load_random_state(tensors, saved_device);
  });
  last_saved_step_ = folder == checkpoint_path(config_.output_dir, global_step_) ? global_step_ : -1;
}

void TrainingRun::load_state_json(const Json& state, const std::string& where) {
  const int64_t version = state_integer(state, "version", where);
  require<FileError>(version == 1, "{} has version {}, this library reads version 1", escaped(where),
                     version);
  try {
    const auto must_be = [&](const char* key, const Json& ours) {
      require<ConfigError>(state.at(key) == ours, "{} is {}, but the checkpoint was trained with {} ({})",
                           key, ours.dump(), json_excerpt(state.at(key)), escaped(where));
    };
    const bool was_iterable = state.value(kIterableKey, false);
    require<ConfigError>(
        was_iterable == data_.is_iterable(), "the data is {}, but the checkpoint was trained on {} ({})",
        TrainerData::kind(data_.is_iterable()), TrainerData::kind(was_iterable), escaped(where));
    must_be("dataset_size", data_.size() ? Json(*data_.size()) : Json());
    compare_data_order(state, where);
    if (state.contains("dtype")) must_be("dtype", dtype_name(dtype_));
    saved_world_size_ = state.contains(kWorldSizeKey) ? state_integer(state, kWorldSizeKey, where) : 1;
    compare_options(state, where);
    load_batch_parts(state, where);
    seed_ = static_cast<uint64_t>(state_integer(state, "seed", where));
    global_step_ = state_integer(state, "global_step", where);
    epoch_ = state_integer(state, "epoch", where);
    const Json& position = state.at("loader");
    open_loader();
    const DataLoaderPosition place{state_integer(position, "epoch", where),
                                   place_in_epoch(state_integer(position, "index", where))};
    try {
      loader_->restore(place);
    } catch (const ConfigError& error) {
      fail<FileError>("{}: \"loader\" does not fit the dataset: {}", escaped(where), error.what());
    }
    require<FileError>(state.at("last_loss").is_number(), "{}: \"last_loss\" is {}, expected a number",
                       escaped(where), json_excerpt(state.at("last_loss")));
    last_loss_ = state.at("last_loss").get<double>();
    if (trainer_.ema_)
      trainer_.ema_->set_optimization_step(state_integer(state, "ema_optimization_step", where));
    warn_about_length(state_integer(state, "total_steps", where));
  } catch (const Json::exception& error) {
    fail<FileError>("{} is not a trainer state: {}", escaped(where), json_reason(error));
  }
}

/// Of data that is read in order: other shards or threads would give other samples from the saved position
/// on.
void TrainingRun::compare_data_order(const Json& state, const std::string& where) const {
  const std::string order = state.value(kDataOrderKey, std::string());
  require<ConfigError>(
      order == data_.order_key(),
      "the data is read in the order of {}, but the checkpoint was trained with {} ({}); expected the "
      "same shards and options",
      escaped(data_.order_key()), escaped(order), escaped(where));
  const int64_t threads = data_.sharing_threads(config_);
  require<ConfigError>(
      state.value(kReadingThreadsKey, int64_t{0}) == threads,
      "dataloader_num_workers is {}, so {} threads share the data, but the checkpoint was trained "
      "with {} ({}); expected the same number, since the order of the samples depends on it",
      config_.dataloader_num_workers, threads, state.value(kReadingThreadsKey, int64_t{0}), escaped(where));
}

void TrainingRun::compare_options(const Json& state, const std::string& where) const {
  Json saved = state.value("training_config", Json::object());
  require<FileError>(saved.is_object(), "{}: \"training_config\" is {}, expected an object", escaped(where),
                     json_excerpt(saved));
  // As they were in the end: a seed that nobody gave was drawn.
  for (const char* key :
       {"seed", "train_batch_size", "gradient_accumulation_steps", "optimizer", "mixed_precision", "use_ema"})
    saved[key] = state.at(key);
  Json ours = parse_json(config_.to_json(), "the training config");
  if (!config_.seed) ours.erase("seed");
  // Several processes may share a batch of the size that another number of processes had.
  if (saved_world_size_ != process_group_.world_size()) ours.erase("train_batch_size");
  require_same_options(saved, ours, where);
  const Json our_task = parse_json(task_.config_json(), "config_json() of the task");
  require_same_task(with_moved_options(state.value("task", Json()), saved, our_task), our_task, where);
  compare_updates(state.value("updates", Json()), where);
}

void TrainingRun::compare_updates(const Json& saved, const std::string& where) const {
  if (!saved.is_array()) return;  // of a checkpoint from before there were several
  require<ConfigError>(saved.size() == updates_.size(),
                       "the task has {} updates, but the checkpoint was trained with {} ({})",
                       updates_.size(), saved.size(), escaped(where));
  for (std::size_t i = 0; i < updates_.size(); ++i) {
    const Json ours = updates_[i].config_json();
    require<ConfigError>(saved[i] == ours,
                         "update {} of the task is {}, but the checkpoint was trained with {} ({})", i,
                         json_excerpt(ours), json_excerpt(saved[i]), escaped(where));
  }
}

void TrainingRun::warn_about_length(int64_t saved_steps) const {
  if (global_step_ > total_steps_)
    log_message(LogLevel::kWarning,
                fmt::format("the checkpoint is of step {}, but the training has only {} steps: nothing is "
                            "left to train",
                            global_step_, total_steps_));
  const bool has_length =
      !config_.lr_scheduler.starts_with("constant") && config_.lr_scheduler != "piecewise_constant";
  if (saved_steps != total_steps_ && has_length)
    log_message(LogLevel::kWarning,
                fmt::format("the training has {} steps now, and had {} when the checkpoint was saved: from "
                            "step {} on, lr_scheduler \"{}\" follows the new length",
                            total_steps_, saved_steps, global_step_, config_.lr_scheduler));
}

void TrainingRun::load_state_tensors(const TensorMap& tensors) {
  const at::NoGradGuard no_grad;
  skipped_steps_ = 0;
  for (UpdateRun& update : updates_) {
    const bool is_first = &update == &updates_.front();
    update.load_state(is_first ? tensors : with_prefix(tensors, update_prefix(update.name(), false)),
                      global_step_);
    skipped_steps_ += update.skipped_steps();
  }
  task_.load_state(with_prefix(tensors, kTaskPrefix));
  for (int64_t rank = 1;
       rank < process_group_.world_size() && saved_world_size_ == process_group_.world_size(); ++rank) {
    const std::string prefix = rank_random_prefix(rank);
    insert_with_prefix(rank_random_states_, prefix, with_prefix(tensors, prefix));
  }
  for (PowerAverage& average : power_averages_) {
    const TensorMap saved = with_prefix(tensors, post_hoc_prefix(average.model));
    require_finite(saved);
    average.ema.load_state_dict(saved);
  }
}

void TrainingRun::load_random_state(const TensorMap& tensors, const std::string& saved_device) {
  if (type_of_device(saved_device) != type_of_device(device_.str())) {
    log_message(LogLevel::kWarning,
                fmt::format("the checkpoint was trained on {}, and the training goes on on {}: with other "
                            "random numbers",
                            escaped(saved_device), device_.str()));
    manual_seed(seed_ + static_cast<uint64_t>(global_step_));
    generator_ = make_device_generator(device_, seed_ + static_cast<uint64_t>(global_step_));
    return;
  }
  TensorMap random;
  for (const auto& [name, tensor] : with_prefix(tensors, kRandomPrefix))
    random.insert(name == saved_device ? device_.str() : name, tensor);  // cuda:0 may be cuda:1 now
  set_global_random_state(device_, random);
  generator_ = make_device_generator(device_, seed_);
  set_generator_state(generator_, tensors, "noise_generator");
}

}  // namespace internal
}  // namespace diffusers
