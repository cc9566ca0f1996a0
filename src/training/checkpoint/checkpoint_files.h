#pragma once

// Names of the files of a checkpoint and of their tensors.

#include <cstdint>
#include <string>
#include <string_view>

#include <diffusers/core/tensor_map.h>

namespace diffusers {
inline namespace internal {

inline constexpr const char* kStateFile = "trainer_state.json";
inline constexpr const char* kTensorFile = "trainer_state.safetensors";
inline constexpr const char* kOptimizerFile = "optimizer.safetensors";
inline constexpr const char* kAverageSuffix = "_ema";
/// Key of the state file: true if the training was on an IterableDataset.
inline constexpr const char* kIterableKey = "is_iterable_dataset";
inline constexpr const char* kDataOrderKey = "data_order";
inline constexpr const char* kReadingThreadsKey = "reading_threads";
inline constexpr const char* kTaskPrefix = "task.";
inline constexpr const char* kRandomPrefix = "random.";
inline constexpr const char* kScalerPrefix = "scaler.";
inline constexpr const char* kValuePrefix = "value.";

/// Key of the state file: the number of processes; absent if a process trained alone.
inline constexpr const char* kWorldSizeKey = "world_size";

/// Returns the prefix of the random states of a process other than rank 0.
inline std::string rank_random_prefix(int64_t rank) { return "random_rank" + std::to_string(rank) + "."; }
/// Returns the file name of an update's optimizer. The first update has the name without a suffix.
inline std::string optimizer_file(const std::string& update, bool is_first) {
  return is_first ? kOptimizerFile : "optimizer_" + update + ".safetensors";
}
/// Returns the prefix of an update's tensors in the trainer's state. The first update has no prefix.
inline std::string update_prefix(const std::string& update, bool is_first) {
  return is_first ? "" : "update." + update + ".";
}
inline std::string post_hoc_prefix(const std::string& model) { return "post_hoc_ema." + model + "."; }

/// Adds tensors to a map, with a prefix before their names.
inline void insert_with_prefix(TensorMap& into, const std::string& prefix, const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) into.insert(prefix + name, tensor);
}
/// Returns the tensors whose names begin with a prefix, under their names without it.
inline TensorMap with_prefix(const TensorMap& tensors, std::string_view prefix) {
  TensorMap found;
  for (const auto& [name, tensor] : tensors)
    if (std::string_view(name).starts_with(prefix)) found.insert(name.substr(prefix.size()), tensor);
  return found;
}

}  // namespace internal
}  // namespace diffusers
