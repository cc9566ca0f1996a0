#pragma once

// Names of the files of a checkpoint and of the tensors in them.

#include <string>

namespace diffusers {

inline constexpr const char* kStateFile = "trainer_state.json";
inline constexpr const char* kTensorFile = "trainer_state.safetensors";
inline constexpr const char* kOptimizerFile = "optimizer.safetensors";
inline constexpr const char* kAverageSuffix = "_ema";
inline constexpr const char* kTaskPrefix = "task.";
inline constexpr const char* kRandomPrefix = "random.";
inline constexpr const char* kScalerPrefix = "scaler.";

inline std::string post_hoc_prefix(const std::string& model) { return "post_hoc_ema." + model + "."; }

}  // namespace diffusers
