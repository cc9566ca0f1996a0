#pragma once

// Names of the files of a checkpoint and of the tensors in them.

#include <string>
#include <string_view>

#include <diffusers/core/tensor_map.h>

namespace diffusers {

inline constexpr const char* kStateFile = "trainer_state.json";
inline constexpr const char* kTensorFile = "trainer_state.safetensors";
inline constexpr const char* kOptimizerFile = "optimizer.safetensors";
inline constexpr const char* kAverageSuffix = "_ema";
/// Key of the state file: true if the training was on an IterableDataset.
inline constexpr const char* kIterableKey = "is_iterable_dataset";
inline constexpr const char* kTaskPrefix = "task.";
inline constexpr const char* kRandomPrefix = "random.";
inline constexpr const char* kScalerPrefix = "scaler.";
inline constexpr const char* kValuePrefix = "value.";

/// The file of an optimizer. The first update of a training has the plain name.
inline std::string optimizer_file(const std::string& update, bool is_first) {
  return is_first ? kOptimizerFile : "optimizer_" + update + ".safetensors";
}
/// The prefix of an update's tensors among the trainer's. The first update of a training has none.
inline std::string update_prefix(const std::string& update, bool is_first) {
  return is_first ? "" : "update." + update + ".";
}
inline std::string post_hoc_prefix(const std::string& model) { return "post_hoc_ema." + model + "."; }

/// Adds tensors under their names with a prefix.
inline void insert_with_prefix(TensorMap& into, const std::string& prefix, const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) into.insert(prefix + name, tensor);
}
/// The tensors whose names have a prefix, without it.
inline TensorMap with_prefix(const TensorMap& tensors, std::string_view prefix) {
  TensorMap found;
  for (const auto& [name, tensor] : tensors)
    if (std::string_view(name).starts_with(prefix)) found.insert(name.substr(prefix.size()), tensor);
  return found;
}

}  // namespace diffusers
