#pragma once

// Queries on the table of scheduler classes, for scheduler_config.cpp.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace diffusers {
inline namespace internal {
namespace scheduler_registry {

/// Returns true if Python's `_compatibles` of the class is KarrasDiffusionSchedulers.
bool is_karras_compatible(std::string_view class_name);

/// Returns the config keys of a class; nullopt if there is no such class.
std::optional<std::vector<std::string>> config_keys(std::string_view class_name);

}  // namespace scheduler_registry
}  // namespace internal
}  // namespace diffusers
