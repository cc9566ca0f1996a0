// The number of parts that a TrainingRun cuts each batch into on the CPU.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>

#include <ATen/ATen.h>

#include "core/batch_parts.h"
#include "core/part_threads.h"
#include "core/require.h"
#include "io/posix_file.h"
#include "training/loop/training_run.h"
#include "training/tasks/task_inputs.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr const char* kPartsKey = "cpu_data_parallel";

/// More parts than a machine has cores: the file is damaged.
constexpr int64_t kMostParts = 1 << 20;

int64_t count_numbers(const std::vector<Tensor>& tensors) {
  int64_t count = 0;
  for (const Tensor& tensor : tensors) count += tensor.numel();
  return count;
}

}  // namespace

void TrainingRun::check_batch_parts() const {
  const int64_t parts = config_.cpu_data_parallel;
  require_divisible_batches(task_.batch_split(), parts);
  require<ConfigError>(parts <= 1 || device_.is_cpu(),
                       "cpu_data_parallel is {}, but the model is on {}; it needs the CPU", parts,
                       device_.str());
}

/// @return the number by the rule; 1 if the task or the device does not allow more
int64_t TrainingRun::automatic_batch_parts(const Batch& batch) const {
  const BatchSplit split = task_.batch_split();
  const Tensor& images = batch.images;
  if (!device_.is_cpu() || !split.obstacle.empty() || !split.is_automatic || !images.defined() ||
      images.dim() < 2)
    return 1;
  if (config_.fused_backward_pass) return 1;
  const int64_t factor = std::max<int64_t>(split.downsampling_factor, 1);
  int64_t positions = 1;
  for (const int64_t side : images.sizes().slice(2)) positions *= side / factor;
  return automatic_parts({.batch_size = images.size(0),
                          .positions = positions,
                          .parameters = count_numbers(parameters_),
                          .gradients = count_numbers(trainable_)},
                         threads_of_parts());
}

/// @param first first batch of this process, which the rule depends on
int64_t TrainingRun::batch_parts(const Batch& first) {
  if (std::exchange(has_chosen_parts_, true)) return batch_parts_;
  // The checkpoint has one number for all processes.
  const Tensor parts = at::full({1}, choose_batch_parts(first), at::kLong);
  process_group_.broadcast(parts);
  return batch_parts_ = parts.item<int64_t>();
}

int64_t TrainingRun::choose_batch_parts(const Batch& first) {
  if (config_.cpu_data_parallel > 0) return batch_parts_ = config_.cpu_data_parallel;
  const int64_t saved = batch_parts_;
  const int64_t automatic = automatic_batch_parts(first);
  const bool is_possible = saved == 1 || (device_.is_cpu() && task_.batch_split().obstacle.empty() &&
                                          !config_.fused_backward_pass);
  batch_parts_ = saved > 0 && is_possible ? saved : automatic;
  std::string message = fmt::format("cpu_data_parallel is 0: each batch is computed in {} part{}",
                                    batch_parts_, batch_parts_ == 1 ? "" : "s, one thread each");
  if (saved > 0 && saved == batch_parts_ && saved != automatic)
    message += fmt::format(
        ", as before the checkpoint; a new training on this machine would choose {} for its {} threads",
        automatic, threads_of_parts());
  if (saved > 0 && saved != batch_parts_)
    message +=
        fmt::format("; it was {} before the checkpoint, so sums are rounded otherwise from now on", saved);
  log_message(LogLevel::kInfo, message);
  return batch_parts_;
}

void TrainingRun::load_batch_parts(const Json& state, const std::string& where) {
  // Earlier versions always took the number of the config.
  const Json config = state.value("training_config", Json::object());
  if (!state.contains(kPartsKey) && !config.contains(kPartsKey)) return;
  const Json& saved = state.contains(kPartsKey) ? state.at(kPartsKey) : config.at(kPartsKey);
  const bool is_count =
      saved.is_number_integer() && (saved.is_number_unsigned() || saved.get<int64_t>() >= 0);
  require<FileError>(is_count && saved.get<uint64_t>() <= uint64_t{kMostParts},
                     "{}: \"{}\" is {}, expected an integer from 0 to {}", escaped(where), kPartsKey,
                     json_excerpt(saved), kMostParts);
  batch_parts_ = saved.get<int64_t>();
}

}  // namespace internal
}  // namespace diffusers
