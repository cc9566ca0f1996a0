// What the processes of a TrainingRun tell each other, besides their gradients.

#include <array>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/batch_fields.h"
#include "data/transforms.h"
#include "models/layers/joined_batch.h"
#include "training/checkpoint/checkpoint_files.h"
#include "training/loop/random_state.h"
#include "training/loop/trained_parameters.h"
#include "training/loop/training_run.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::array<int, 3> kVotedSignals{SIGINT, SIGTERM, SIGUSR1};

/// The first value in which two objects differ.
struct Difference {
  std::string key;
  Json first, second;
};

std::optional<Difference> first_difference(const Json& first, const Json& second, const std::string& key) {
  if (first == second) return std::nullopt;
  if (!first.is_object() || !second.is_object()) return Difference{key, first, second};
  for (const auto& [name, value] : first.items())
    if (!second.contains(name)) return Difference{name, value, Json()};
  for (const auto& [name, value] : second.items()) {
    if (!first.contains(name)) return Difference{name, Json(), value};
    if (std::optional<Difference> found = first_difference(first[name], value, name)) return found;
  }
  return std::nullopt;
}

/// As `describe`, without the device, whose number differs.
std::string shape_text(const Tensor& tensor) {
  return fmt::format("{} {}", dtype_name(tensor.scalar_type()), tensor.sizes().vec());
}

/// Random numbers of a process that are not shared, such as those of dropout.
uint64_t seed_of_rank(uint64_t seed, int64_t rank) {
  return rank == 0 ? seed : ExampleRandom::mix(ExampleRandom::mix(seed) ^ static_cast<uint64_t>(rank));
}

}  // namespace

/// What must be the same in all processes.
std::string TrainingRun::description_for_group() const {
  Json shapes = Json::object();
  for (const NamedModule& named : task_.trained()) {
    for (const auto& item : named.module->module().named_parameters())
      shapes["the parameter " + item.key() + " of " + named.name] = shape_text(item.value());
    for (const auto& item : named.module->module().named_buffers())
      shapes["the buffer " + item.key() + " of " + named.name] = shape_text(item.value());
  }
  Json description = {{"config", parse_json(config_.to_json(), "the training config")},
                      {"task", parse_json(task_.config_json(), "config_json() of the task")},
                      {"modules", shapes},
                      {"the size of the dataset", data_.size() ? Json(*data_.size()) : Json()},
                      {"the number of held-out samples", validation_ ? Json(validation_->size()) : Json()},
                      {"the number of trained parameters", trainable_.size()},
                      {"the number of steps", total_steps_},
                      {"zero_stage", process_group_.options().zero_stage},
                      {"the type of device", std::string(c10::DeviceTypeName(device_.type(), true))}};
  for (const UpdateRun& update : updates_) description["updates"][update.name()] = update.config_json();
  return description.dump();
}

void TrainingRun::check_group() const {
  if (!process_group_.is_connected()) return;
  const int64_t processes = process_group_.world_size();
  require<ConfigError>(
      !config_.fused_backward_pass,
      "fused_backward_pass is true, but the processes of a group exchange the gradients of the "
      "whole backward pass before they update the parameters. Set fused_backward_pass to false");
  if (processes > 1) {
    const std::string obstacle = task_.process_obstacle();
    require<ConfigError>(obstacle.empty(), "{} processes train together, but {}", processes, obstacle);
    for (const NamedModule& named : task_.trained())
      require<ConfigError>(
          !has_local_batch_statistics(named.module->module()),
          "{} processes train together, but {} has batch normalisation, whose statistics are "
          "those of whole batches; use SyncBatchNorm2d in its place, or train in one process",
          processes, named.name);
  }
  const std::vector<std::string> texts = process_group_.all_gather(description_for_group());
  const Json first = parse_json(texts.front(), "the description of process 0");
  for (std::size_t rank = 1; rank < texts.size(); ++rank) {
    const auto difference =
        first_difference(first, parse_json(texts[rank], "the description of another process"), "");
    require<ConfigError>(!difference.has_value(),
                         "{} is {} in process 0, but {} in process {}; expected the same in all processes",
                         difference.value_or(Difference{}).key,
                         json_excerpt(difference.value_or(Difference{}).first),
                         json_excerpt(difference.value_or(Difference{}).second), rank);
  }
}

/// The other processes take what rank 0 has read or drawn.
void TrainingRun::share_start(bool is_resumed) {
  const bool is_main = process_group_.is_main();
  Json start;
  if (is_main)
    start = {{"is_resumed", is_resumed},
             {"is_from_elsewhere", is_from_elsewhere_},
             {"last_saved_step", last_saved_step_},
             {"seed", seed_},
             {"state", is_resumed ? state_json() : Json()}};
  const char* where = "the start of process 0";
  start = parse_json(process_group_.broadcast(start.dump()), where);
  if (!is_main) {
    is_resumed = start.at("is_resumed").get<bool>();
    is_from_elsewhere_ = start.at("is_from_elsewhere").get<bool>();
    last_saved_step_ = start.at("last_saved_step").get<int64_t>();
    seed_ = start.at("seed").get<uint64_t>();
    if (is_resumed) {
      load_state_json(start.at("state"), where);
    } else {
      open_loader();
    }
    generator_ = make_device_generator(device_, seed_);
    manual_seed(seed_of_rank(seed_ + static_cast<uint64_t>(global_step_), process_group_.rank()));
  }
  share_weights();
  if (is_resumed) {
    share_moments();
    share_state(process_group_.broadcast(is_main ? state_tensors() : TensorMap()));
  } else {
    for (PowerAverage& average : power_averages_) {
      const TensorMap averages = process_group_.broadcast(average.ema.state_dict());
      if (!is_main) average.ema.load_state_dict(averages);
    }
  }
}

void TrainingRun::share_weights() {
  for (const NamedModule& named : task_.trained()) {
    for (const Tensor& parameter : named.module->module().parameters()) process_group_.broadcast(parameter);
    for (const Tensor& buffer : named.module->module().buffers()) process_group_.broadcast(buffer);
  }
  if (trainer_.ema_ && sharding_) {
    sharding_->scatter_average(*trainer_.ema_);
  } else if (trainer_.ema_) {
    for (const Tensor& average : trainer_.ema_->tensors()) process_group_.broadcast(average);
  }
}

/// Of the optimizers, as rank 0 has loaded them.
void TrainingRun::share_moments() {
  for (const UpdateRun& update : updates_) {
    if (sharding_) {
      sharding_->scatter_state(*update.optimizer());
      continue;
    }
    const TensorMap moments = process_group_.broadcast(update.optimizer()->state_dict());
    if (!process_group_.is_main()) update.optimizer()->load_state_dict(moments);
  }
}

/// Collects the average on rank 0 if it is divided and rank 0 wants it.
void TrainingRun::gather_average(bool is_wanted) {
  if (!sharding_ || !trainer_.ema_) return;
  if (!process_group_.broadcast(is_wanted ? "wanted" : "").empty()) sharding_->gather_average(*trainer_.ema_);
}

/// @param tensors the state of rank 0
void TrainingRun::share_state(const TensorMap& tensors) {
  if (process_group_.is_main()) return;
  load_state_tensors(tensors);
  for (UpdateRun& update : updates_) update.clear_values();  // rank 0 has them
  set_generator_state(generator_, tensors, "noise_generator");
  const TensorMap saved = with_prefix(tensors, rank_random_prefix(process_group_.rank()));
  if (saved.empty()) return;  // trained by another number of processes, or on another kind of device
  TensorMap own;
  for (const auto& [name, tensor] : saved) own.insert(name == "cpu" ? name : device_.str(), tensor);
  set_global_random_state(device_, own);
}

/// Gives a process without samples of a batch those of the last process, which has samples of every batch.
/// They do not count: the loss may exchange numbers, so that each process has to compute one.
void TrainingRun::share_stand_ins(Group& group) const {
  const int64_t last = process_group_.world_size() - 1;
  for (std::size_t i = 0; i < group.rows.size(); ++i) {
    if (group.rows[i].total > last) continue;
    Batch& batch = group.batches[i];
    TensorMap fields;
    for_each_tensor(batch,
                    [&](const BatchField& about, const Tensor& field) { fields.insert(about.name, field); });
    fields = process_group_.broadcast(fields, last);
    const Json own_captions = batch.captions;
    const Json captions = parse_json(
        process_group_.broadcast(own_captions.dump(-1, ' ', false, Json::error_handler_t::replace), last),
        "the captions of another process");
    if (group.rows[i].begin < group.rows[i].end) continue;
    for_each_field([&](const BatchField& about, auto member) {
      if constexpr (std::is_same_v<decltype(member), Tensor Batch::*>)
        if (fields.contains(about.name)) batch.*member = fields.at(about.name);
    });
    batch.captions = captions.get<std::vector<std::string>>();
  }
}

/// @param rows of the batch among those of all processes
std::shared_ptr<const JoinedBatch> TrainingRun::joined_batch(const BatchRows& rows) const {
  const auto all_reduce = [group = process_group_](const Tensor& tensor) { group.all_reduce(tensor); };
  return std::make_shared<JoinedBatch>(
      all_reduce, static_cast<double>(rows.end - rows.begin) / static_cast<double>(rows.total));
}

/// A task may draw by the number of samples of its process. The last process has samples of every batch.
void TrainingRun::share_generator() {
  const Tensor state = generator_.get_state();
  process_group_.broadcast(state, process_group_.world_size() - 1);
  generator_.set_state(state);
}

/// Lets every process know of a stop signal or `request_stop` of any of them.
void TrainingRun::agree_to_stop() {
  if (!process_group_.is_connected() || agreed_signal_) return;
  const Tensor votes = at::zeros({static_cast<int64_t>(kVotedSignals.size()) + 1}, at::kLong);
  auto* const vote = votes.mutable_data_ptr<int64_t>();
  const std::optional<int> received = signals_->received();
  for (std::size_t i = 0; i < kVotedSignals.size(); ++i) vote[i] = received == kVotedSignals[i] ? 1 : 0;
  vote[kVotedSignals.size()] = trainer_.stop_requested_ ? 1 : 0;
  process_group_.all_reduce(votes);
  for (std::size_t i = 0; i < kVotedSignals.size() && !agreed_signal_; ++i)
    if (vote[i] > 0) agreed_signal_ = kVotedSignals[i];
  if (!agreed_signal_ && vote[kVotedSignals.size()] > 0) agreed_signal_ = 0;
}

/// True if the training ends before its last step.
bool TrainingRun::must_end() const {
  return process_group_.is_connected() ? agreed_signal_.has_value() : must_stop();
}

/// What rank 0 writes and the other processes have.
void TrainingRun::gather_for_checkpoint() {
  if (!process_group_.is_connected()) return;
  for (UpdateRun& update : updates_) update.join_values(process_group_);
  if (sharding_)
    for (const UpdateRun& update : updates_)
      gathered_moments_.push_back(sharding_->gather_state(*update.optimizer()));
  gather_average(true);
  rank_random_states_ = TensorMap();
  for (int64_t rank = 1; rank < process_group_.world_size(); ++rank) {
    const bool is_own = rank == process_group_.rank();
    const TensorMap states =
        process_group_.broadcast(is_own ? global_random_state(device_) : TensorMap(), rank);
    // "cuda:1" of one machine may be "cuda:0" of the next.
    for (const auto& [name, tensor] : states)
      rank_random_states_.insert(rank_random_prefix(rank) + (name == "cpu" ? name : "device"), tensor);
  }
}

/// Another number of processes may have batches of another size, which do not begin at the same samples.
int64_t TrainingRun::place_in_epoch(int64_t saved_index) const {
  if (saved_world_size_ == process_group_.world_size()) return saved_index;
  const int64_t batch_size = config_.train_batch_size * process_group_.world_size();
  const int64_t batches = saved_index / batch_size;
  const std::optional<int64_t> size = data_.size();
  if (size && saved_index >= *size) return loader_->size() * batch_size;  // the epoch has ended
  if (batches * batch_size != saved_index)
    log_message(
        LogLevel::kWarning,
        fmt::format("the checkpoint was trained by {} processes, and {} go on with batches of {} samples "
                    "in all: {} samples of the epoch are read a second time",
                    saved_world_size_, process_group_.world_size(), batch_size,
                    saved_index - batches * batch_size));
  return batches * batch_size;
}

}  // namespace internal
}  // namespace diffusers
