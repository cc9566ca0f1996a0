#pragma once

// Reading and writing of config.json for the models, with Python's semantics (ConfigMixin.extract_init_dict).

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/models/model.h>

#include "core/config_json.h"
#include "core/diffusers_version.h"
#include "core/json.h"
#include "core/model_class.h"
#include "core/require.h"

namespace diffusers {

/// Keys of a model's config.json that no class declares, and that are no mistake.
inline bool is_private_config_key(std::string_view key) { return key.starts_with('_'); }

/// @param null_is_default keys of flags whose null counts as the default, false, as it does in Python
template <class Config>
void read_config_fields(std::string_view text, std::string_view where, std::string_view class_name,
                        Config& config, std::string& source, LoadReport& report,
                        const std::vector<std::string>& null_is_default = {}) {
  Json json = parse_json(text, where);
  require<ConfigError>(json.is_object(), "{}: expected a JSON object", where);
  check_config_class(json, where, class_name);
  // Keys that Python says were left at their defaults take the defaults of this version.
  if (const auto defaults = json.find("_use_default_values"); defaults != json.end()) {
    std::vector<std::string> keys;
    config_json::from(*defaults, keys, "_use_default_values");
    for (const auto& key : keys) json.erase(key);
    json.erase("_use_default_values");
  }
  Json fields = json;
  for (const auto& key : null_is_default)
    if (const auto field = fields.find(key); field != fields.end() && field->is_null()) fields.erase(field);
  const Json rest = config_json::fields_from_json(fields, config, where);
  for (const auto& [key, value] : rest.items())
    if (!is_private_config_key(key)) report.unknown_config_keys.push_back(key);
  if (!report.unknown_config_keys.empty()) {
    warn_once(fmt::format("{}: {} does not know these keys, they are kept but have no effect: {}", where,
                          class_name, fmt::join(report.unknown_config_keys, ", ")));
  }
  source = dump_json(json);
}

/// Runs `build`, which makes the layers of a model, and turns what LibTorch throws (in practice: no memory
/// for a layer of that size) into a ConfigError.
template <class Build>
void build_model(std::string_view class_name, Build&& build) {
  try {
    std::forward<Build>(build)();
  } catch (const c10::Error& error) {
    fail<ConfigError>("{} cannot be made with this config: {}", class_name, error.what_without_backtrace());
  }
}

/// @param integral keys whose Python default is an integer where ours is a double: written as Python does
template <class Config>
std::string write_config_fields(const Config& config, std::string_view source, std::string_view class_name,
                                const std::vector<std::string>& integral) {
  Json json = config_json::fields_to_json(config);
  for (const auto& key : integral) {
    const double value = json[key].template get<double>();
    if (std::trunc(value) == value && std::abs(value) < 1e15) json[key] = static_cast<int64_t>(value);
  }
  // A loaded config cannot have changed since: its own text is the most faithful.
  if (!source.empty()) json.update(parse_json(source, class_name));
  json["_class_name"] = class_name;
  json["_diffusers_version"] = kDiffusersVersion;
  return dump_json(json);
}

}  // namespace diffusers
