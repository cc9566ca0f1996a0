#pragma once

// Reading and writing of config.json for the models of the library. Each model lists its fields with
// `visit_fields` in its .cpp.

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/models/model.h>

#include "core/config_json.h"
#include "core/json.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {

/// Sets the fields that a JSON object names, and returns its other members.
using SetConfigFields = std::function<Json(const Json& fields)>;

/// @param null_is_default keys of flags whose null counts as the default, false, as in Python
void read_config_json(std::string_view text, std::string_view where, std::string_view class_name,
                      const SetConfigFields& set_fields, std::string& source, LoadReport& report,
                      const std::vector<std::string>& null_is_default);

/// @param integral keys of doubles whose default in Python is an integer; they are written as Python writes
///   them
std::string write_config_json(Json fields, std::string_view source, std::string_view class_name,
                              const std::vector<std::string>& integral);

/// As read_config_json(), for the fields of `config`.
template <class Config>
void read_config_fields(std::string_view text, std::string_view where, std::string_view class_name,
                        Config& config, std::string& source, LoadReport& report,
                        const std::vector<std::string>& null_is_default = {}) {
  const auto set = [&](const Json& fields) { return config_json::fields_from_json(fields, config, where); };
  read_config_json(text, where, class_name, set, source, report, null_is_default);
}

/// As write_config_json(), for the fields of `config`.
template <class Config>
std::string write_config_fields(const Config& config, std::string_view source, std::string_view class_name,
                                const std::vector<std::string>& integral) {
  return write_config_json(config_json::fields_to_json(config), source, class_name, integral);
}

/// Runs `build`, which makes the layers of a model, and converts exceptions of LibTorch to ConfigError. In
/// practice LibTorch throws if there is not enough memory for a layer.
template <class Build>
void build_model(std::string_view class_name, Build&& build) {
  try {
    std::forward<Build>(build)();
  } catch (const c10::Error& error) {
    fail<ConfigError>("{} cannot be made with this config: {}", class_name, error.what_without_backtrace());
  }
}

}  // namespace internal
}  // namespace diffusers
