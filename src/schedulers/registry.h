#pragma once

// Scheduler configs as Python reads and writes them; the table of classes is in registry.cpp.

#include <string>
#include <string_view>

#include <diffusers/schedulers/scheduler.h>

#include "core/json.h"

namespace diffusers::scheduler_config {

inline constexpr std::string_view kFileName = "scheduler_config.json";

/// The object in `text` without the keys that count as missing, with `overrides` on top.
Json parse(std::string_view text, std::string_view class_name, std::string_view overrides = {});

/// Warns about the keys in `unknown` that no compatible scheduler has.
void warn_about_unknown_keys(const Json& unknown, const Json& config, std::string_view class_name);

/// The text of the config file of a folder.
std::string read(const std::filesystem::path& folder, const SchedulerLoadOptions& options);

/// Python's `scheduler.config` as JSON text.
/// @param loaded the JSON object that the scheduler was made from; empty if it was made from a struct
std::string compose(Json fields, const Json& defaults, const std::string& loaded,
                    std::string_view class_name);

}  // namespace diffusers::scheduler_config
