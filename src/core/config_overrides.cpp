#include <diffusers/core/config_overrides.h>
#include <diffusers/core/error.h>

#include "core/json.h"

namespace diffusers {
namespace {

std::string value_text(const Json& value) {
  try {
    return dump_json(value);
  } catch (const Json::exception& error) {  // a string that is not UTF-8
    throw ConfigError("an override cannot be written as JSON: " + json_reason(error));
  }
}

}  // namespace

ConfigValue::ConfigValue(std::nullptr_t) : json_("null") {}
ConfigValue::ConfigValue(double value) : json_(value_text(value)) {}
ConfigValue::ConfigValue(std::string_view text) : json_(value_text(std::string(text))) {}
ConfigValue::ConfigValue(const std::vector<double>& values) : json_(value_text(values)) {}
ConfigValue::ConfigValue(const std::vector<int64_t>& values) : json_(value_text(values)) {}

ConfigOverrides::ConfigOverrides(std::initializer_list<ConfigOverride> overrides)
    : ConfigOverrides(std::vector<ConfigOverride>(overrides)) {}

ConfigOverrides::ConfigOverrides(const std::vector<ConfigOverride>& overrides) {
  if (overrides.empty()) return;
  json_ = "{";
  for (const auto& [key, value] : overrides) {
    if (json_.size() > 1) json_ += ", ";
    json_ += value_text(key) + ": " + value.json();
  }
  json_ += "}";
}

}  // namespace diffusers
