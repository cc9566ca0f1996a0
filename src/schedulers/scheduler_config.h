#pragma once

// Helpers for scheduler configs with Python's semantics. The table of classes is in registry.cpp.

#include <string>
#include <string_view>
#include <vector>

#include <diffusers/schedulers/scheduler_config.h>

namespace diffusers {
inline namespace internal {
namespace scheduler_config {

inline constexpr std::string_view kFileName = "scheduler_config.json";

/// Returns `_class_name` of a config; empty if it has none.
/// @throws ConfigError if the text is not a JSON object
std::string class_name_of(std::string_view json);

/// Returns the config with the overrides applied.
/// @param config_keys the fields of the class
/// @throws ConfigError naming an override that is neither a field of the class nor a key of the config
std::string with_overrides(std::string_view json, const ConfigOverrides& overrides,
                           std::string_view class_name, const std::vector<std::string>& config_keys);

}  // namespace scheduler_config
}  // namespace internal
}  // namespace diffusers
