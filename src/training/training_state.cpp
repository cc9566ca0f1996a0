// What a TrainingRun writes to disk and reads back: checkpoints and the final folder.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/checkpoint.h>
#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>

#include "core/format.h"
#include "io/posix_file.h"
#include "training/checkpoint_writer.h"
#include "training/random_state.h"
#include "training/training_run.h"

namespace diffusers {
namespace {

constexpr const char* kStateFile = "trainer_state.json";
constexpr const char* kTensorFile = "trainer_state.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kEmaSuffix = "_ema";
constexpr const char* kTaskPrefix = "task.";

/// Copies saved weights into the module, by name.
void load_module(torch::nn::Module& module, const std::string& folder) {
  const at::NoGradGuard no_grad;
  const TensorMap saved = load_weights(folder);
  const auto take = [&](const std::string& name, const Tensor& tensor, bool must_exist) {
    if (!must_exist && !saved.contains(name)) return;
    require<FileError>(saved.contains(name), "{} lacks the parameter \"{}\"", escaped(folder), name);
    require<FileError>(saved.at(name).sizes() == tensor.sizes(), "\"{}\" in {} is {}, the model has {}", name,
                       escaped(folder), describe(saved.at(name)), describe(tensor));
    tensor.copy_(saved.at(name));
  };
  for (const auto& parameter : module.named_parameters()) take(parameter.key(), parameter.value(), true);
  // Buffers that the model computes itself need not be in its files.
  for (const auto& buffer : module.named_buffers()) take(buffer.key(), buffer.value(), false);
}

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

TensorMap with_prefix(const TensorMap& tensors, std::string_view prefix) {
  TensorMap found;
  for (const auto& [name, tensor] : tensors)
    if (std::string_view(name).starts_with(prefix)) found.insert(name.substr(prefix.size()), tensor);
  return found;
}

std::string post_hoc_prefix(const std::string& model) { return "post_hoc_ema." + model + "."; }

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
      {"optimizer", std::string(enum_name(config_.optimizer))},
      {"mixed_precision", std::string(enum_name(config_.mixed_precision))},
      {"device", device_.str()},
      {"last_loss", last_loss_},
      {"use_ema", trainer_.ema_ != nullptr},
      {"training_config", parse_json(config_.to_json(), "the training config")},
  };
  if (trainer_.ema_) state["ema_optimization_step"] = trainer_.ema_->optimization_step();
  return state;
}

TensorMap TrainingRun::state_tensors() const {
  TensorMap tensors;
  insert_with_prefix(tensors, "random.", global_random_state(device_));
  {
    Generator generator = generator_;
    tensors.insert("noise_generator", generator.get_state());
  }
  tensors.insert("loss_sum", counters_.loss_sum);
  tensors.insert("finite_steps", counters_.finite_steps);
  tensors.insert("nonfinite_in_row", counters_.nonfinite_in_row);
  tensors.insert("worst_row", counters_.worst_row);
  tensors.insert("skipped_steps", counters_.skipped_steps);
  if (scaler_) insert_with_prefix(tensors, "scaler.", scaler_->state_dict());
  insert_with_prefix(tensors, kTaskPrefix, task_.state());
  for (const PowerAverage& average : power_averages_)
    insert_with_prefix(tensors, post_hoc_prefix(average.model), average.ema.state_dict());
  return tensors;
}

void TrainingRun::require_finite_state() const {
  const char* advice = "nothing was saved; the checkpoints before are whole";
  require(all_finite(parameters_), "the weights are not finite at step {}: {}", global_step_, advice);
  if (trainer_.ema_)
    require(all_finite(trainer_.ema_->shadow_params()), "the averaged weights are not finite at step {}: {}",
            global_step_, advice);
  std::vector<Tensor> moments;
  for (const auto& entry : trainer_.optimizer_->state_dict()) moments.push_back(entry.second);
  require(all_finite(moments), "the optimizer's moments are not finite at step {}: {}", global_step_, advice);
}

SnapshotWriter TrainingRun::model_writer(const TrainedModel& trained, bool is_average, bool is_copied) const {
  const EMAModel* ema = is_average ? trainer_.ema_.get() : nullptr;
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
  if (!is_average) return write;
  return [write, state = ema->state()](const std::string& folder) {
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
      content.models.emplace_back(trained.name + (is_average ? kEmaSuffix : ""), std::move(write));
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

bool TrainingRun::resume() {
  if (!config_.resume_from_checkpoint) return false;
  const std::string& wanted = *config_.resume_from_checkpoint;
  if (wanted != "latest") {
    const std::string inside = join_path(config_.output_dir, base_name(wanted));
    const std::string path = folder_exists(wanted) ? wanted : inside;
    require<FileError>(folder_exists(path), "resume_from_checkpoint is {}: there is no such folder, nor {}",
                       escaped(wanted), escaped(inside));
    verify_manifest(path);
    load_checkpoint(path);
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
    return true;
  }
  fail<FileError>(
      "resume_from_checkpoint is \"latest\", but none of the {} checkpoints in {} is whole; the training "
      "does "
      "not start again from step 0 by itself",
      steps.size(), config_.output_dir);
}

void TrainingRun::load_checkpoint(const std::string& folder) {
  const std::string state_path = join_path(folder, kStateFile);
  load_state_json(parse_json(read_text_file(state_path), state_path), state_path);
  for (const TrainedModel& trained : task_.models())
    load_module(trained.model->module(), join_path(folder, trained.name));
  if (trainer_.ema_) {
    // Loaded into the average by way of the parameters, whose places it takes for a moment.
    const AveragedWeights averaged(parameters_, trainer_.ema_.get());
    for (const TrainedModel& trained : task_.models())
      load_module(trained.model->module(), join_path(folder, trained.name + kEmaSuffix));
  }
  trainer_.optimizer_->load_state_dict(load_safetensors(join_path(folder, kOptimizerFile)));
  load_state_tensors(load_safetensors(join_path(folder, kTensorFile)));
  last_saved_step_ = folder == checkpoint_path(config_.output_dir, global_step_) ? global_step_ : -1;
}

void TrainingRun::load_state_json(const Json& state, const std::string& where) {
  try {
    require<FileError>(state.at("version").get<int64_t>() == 1,
                       "{} has version {}, this library reads version 1", escaped(where),
                       state.at("version").dump());
    const auto must_be = [&](const char* key, const Json& ours) {
      require<ConfigError>(state.at(key) == ours, "{} is {}, but the checkpoint was trained with {} ({})",
                           key, ours.dump(), state.at(key).dump(), escaped(where));
    };
    must_be("dataset_size", dataset_size_);
    must_be("train_batch_size", config_.train_batch_size);
    must_be("gradient_accumulation_steps", config_.gradient_accumulation_steps);
    must_be("optimizer", std::string(enum_name(config_.optimizer)));
    must_be("use_ema", trainer_.ema_ != nullptr);
    if (config_.seed) must_be("seed", static_cast<uint64_t>(*config_.seed));
    seed_ = state.at("seed").get<uint64_t>();
    global_step_ = state.at("global_step").get<int64_t>();
    epoch_ = state.at("epoch").get<int64_t>();
    const Json& position = state.at("loader");
    open_loader();
    loader_->restore({position.at("epoch").get<int64_t>(), position.at("index").get<int64_t>()});
    last_loss_ = state.at("last_loss").get<double>();
    if (trainer_.ema_)
      trainer_.ema_->load_state({trainer_.ema_->config(), state.at("ema_optimization_step").get<int64_t>()});
  } catch (const Json::exception& error) {
    fail<FileError>("{} is not a trainer state: {}", escaped(where), error.what());
  }
}

void TrainingRun::load_state_tensors(const TensorMap& tensors) {
  const at::NoGradGuard no_grad;
  counters_.loss_sum.copy_(tensors.at("loss_sum"));
  counters_.finite_steps.copy_(tensors.at("finite_steps"));
  counters_.nonfinite_in_row.copy_(tensors.at("nonfinite_in_row"));
  counters_.worst_row.copy_(tensors.at("worst_row"));
  counters_.skipped_steps.copy_(tensors.at("skipped_steps"));
  skipped_steps_ = counters_.skipped_steps.item<int64_t>();
  if (scaler_ && tensors.contains("scaler.scale")) scaler_->load_state_dict(with_prefix(tensors, "scaler."));
  task_.load_state(with_prefix(tensors, kTaskPrefix));
  for (PowerAverage& average : power_averages_)
    average.ema.load_state_dict(with_prefix(tensors, post_hoc_prefix(average.model)));

  generator_ = make_device_generator(device_, seed_);
  const TensorMap random = with_prefix(tensors, "random.");
  if (random.contains(device_.str())) {
    set_global_random_state(device_, random);
    generator_.set_state(tensors.at("noise_generator"));
  } else {
    log_message(LogLevel::kWarning,
                fmt::format("the checkpoint was trained on another device than {}: the training goes on "
                            "with other random numbers",
                            device_.str()));
    manual_seed(seed_ + static_cast<uint64_t>(global_step_));
    generator_ = make_device_generator(device_, seed_ + static_cast<uint64_t>(global_step_));
  }
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
  if (trainer_.ema_) trainer_.ema_->copy_to(parameters_);
  for (const TrainedModel& trained : task_.models()) {
    StagedFolder folder(join_path(config_.output_dir, trained.name));
    trained.model->save_pretrained(folder.stage());
    folder.publish();
  }
  task_.save_extras(config_.output_dir);
}

}  // namespace diffusers
