// Reads and writes a model's config.json with Python's semantics (ConfigMixin.extract_init_dict).

#include "models/model_config.h"

#include <cmath>

#include <diffusers/core/logging.h>

#include "core/config_fields.h"
#include "core/diffusers_version.h"
#include "core/model_class.h"

namespace diffusers {
namespace {

/// Returns true for keys of a model's config.json that no class declares and that give no warning.
bool is_private_config_key(std::string_view key) { return key.starts_with('_'); }

}  // namespace

void internal::read_config_json(std::string_view text, std::string_view where, std::string_view class_name,
                                const SetConfigFields& set_fields, std::string& source, LoadReport& report,
                                const std::vector<std::string>& null_is_default) {
  Json json = parse_json(text, where);
  require<ConfigError>(json.is_object(), "{}: expected a JSON object", where);
  check_config_class(json, where, class_name);
  // Keys in Python's _use_default_values take the defaults of this version.
  if (const auto defaults = json.find("_use_default_values"); defaults != json.end()) {
    std::vector<std::string> keys;
    config_json::from(*defaults, keys, "_use_default_values");
    for (const auto& key : keys) json.erase(key);
    json.erase("_use_default_values");
  }
  Json fields = json;
  for (const auto& key : null_is_default)
    if (const auto field = fields.find(key); field != fields.end() && field->is_null()) fields.erase(field);
  const Json rest = set_fields(fields);
  for (const auto& [key, value] : rest.items())
    if (!is_private_config_key(key)) report.unknown_config_keys.push_back(key);
  if (!report.unknown_config_keys.empty()) {
    warn_once(fmt::format("{}: {} does not know these keys, they are kept but have no effect: {}", where,
                          class_name, fmt::join(report.unknown_config_keys, ", ")));
  }
  source = dump_json(json);
}

std::string internal::write_config_json(Json fields, std::string_view source, std::string_view class_name,
                                        const std::vector<std::string>& integral) {
  Json json = std::move(fields);
  for (const auto& key : integral) {
    const double value = json[key].get<double>();
    if (std::trunc(value) == value && std::abs(value) < 1e15) json[key] = static_cast<int64_t>(value);
  }
  // A loaded config cannot change, so its original text is kept.
  if (!source.empty()) json.update(parse_json(source, class_name));
  json["_class_name"] = class_name;
  json["_diffusers_version"] = kDiffusersVersion;
  return dump_json(json);
}

namespace detail {

void read_config(std::string_view text, std::string_view where, std::string_view class_name,
                 const VisitConfig& visit, std::string& source, LoadReport& report) {
  const auto set = [&](const Json& fields) { return config_fields::from_json(fields, visit, where); };
  read_config_json(text, where, class_name, set, source, report, {});
}

std::string write_config(const VisitConfig& visit, std::string_view source, std::string_view class_name) {
  return write_config_json(config_fields::to_json(visit), source, class_name, {});
}

}  // namespace detail
}  // namespace diffusers
