#pragma once

// Config structs behind their `visit_fields(Config&, ConfigVisitor&)` to and from JSON, without a template
// for each config. config_json.h does the same for configs whose visitor is a template.

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

/// The keys of the fields, in order.
std::vector<std::string> keys(const VisitConfig& visit);

/// The fields as a JSON object.
/// @throws ConfigError if a field that only a program can set is set
Json to_json(const VisitConfig& visit);

/// How `from_json` takes null for a truth value.
enum class NullBool { kRefused, kFalse };

/// Sets the fields that `json` names.
/// @param json a JSON object
/// @param where what the config is of, for messages
/// @return the members of `json` that are no fields
/// @throws ConfigError naming the key, with `where` in front
Json from_json(const Json& json, const VisitConfig& visit, std::string_view where,
               NullBool null_bool = NullBool::kRefused);

}  // namespace config_fields
}  // namespace internal
}  // namespace diffusers
