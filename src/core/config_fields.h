#pragma once

// Converts config structs with a `visit_fields(Config&, ConfigVisitor&)` to and from JSON, without a template
// for each config. config_json.h does the same for configs whose `visit_fields` is a template.

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/config_visitor.h>

#include "core/json.h"

namespace diffusers {
inline namespace internal {
namespace config_fields {

/// Calls the `visit_fields` of a config with a visitor.
using VisitConfig = std::function<void(ConfigVisitor& visitor)>;

/// Returns the keys of the fields, in order.
std::vector<std::string> keys(const VisitConfig& visit);

/// Returns the fields as a JSON object.
/// @throws ConfigError if a field is set that a file cannot hold (`program_only`)
Json to_json(const VisitConfig& visit);

/// Treatment of null for a truth value in `from_json`: an error, or false.
enum class NullBool { kRefused, kFalse };

/// Sets the fields that `json` names.
/// @param json a JSON object
/// @param where name of the class or file of the config, for error messages
/// @return the members of `json` that are not fields
/// @throws ConfigError naming `where` and the key
Json from_json(const Json& json, const VisitConfig& visit, std::string_view where,
               NullBool null_bool = NullBool::kRefused);

}  // namespace config_fields
}  // namespace internal
}  // namespace diffusers
