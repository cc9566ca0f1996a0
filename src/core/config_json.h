#pragma once

// Converts config structs to and from JSON. Each config lists its fields once, next to its class:
//
//   template <class Visitor> void visit_fields(DDPMSchedulerConfig& config, Visitor&& visit) {
//   visit("num_train_timesteps", config.num_train_timesteps); ... }
//
// The functions below then read and write the config with Python's semantics
// (configuration_utils.ConfigMixin).

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/core/error.h>
#include <diffusers/core/one_or_many.h>

#include "core/json.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace config_json {

inline void from(const Json& json, bool& value, std::string_view key) {
  require<ConfigError>(json.is_boolean(), "{} is {}, expected true or false", key, json_excerpt(json));
  value = json.get<bool>();
}
inline void from(const Json& json, int64_t& value, std::string_view key) {
  // Some exporters write 4.0 for 4, which is accepted; 4.5 is an error. Beyond 2^53 a float is not exact.
  const double number = json.is_number_float() ? json.get<double>() : 0.5;
  const bool whole = std::abs(number) < 9007199254740992.0 && std::trunc(number) == number;
  require<ConfigError>(json.is_number_integer() || whole, "{} is {}, expected an integer", key,
                       json_excerpt(json));
  require<ConfigError>(!json.is_number_unsigned() || json.get<uint64_t>() <= INT64_MAX, "{} is {}, too large",
                       key, json_excerpt(json));
  value = json.get<int64_t>();
}
inline void from(const Json& json, double& value, std::string_view key) {
  require<ConfigError>(json.is_number(), "{} is {}, expected a number", key, json_excerpt(json));
  value = json.get<double>();
}
inline void from(const Json& json, std::string& value, std::string_view key) {
  require<ConfigError>(json.is_string(), "{} is {}, expected a string", key, json_excerpt(json));
  value = json.get<std::string>();
}
template <class Enum>
requires std::is_enum_v<Enum>
void from(const Json& json, Enum& value, std::string_view key) {
  std::string name;
  from(json, name, key);
  value = enum_from_name<Enum>(name, key);
}
template <class Enum>
void from(const Json& json, EnumChoice<Enum>& value, std::string_view key) {
  Enum choice{};
  from(json, choice, key);
  value = choice;
}
template <class T>
void from(const Json& json, OneOrMany<T>& value, std::string_view key);
/// Reads null as an empty vector.
template <class T>
void from(const Json& json, std::vector<T>& value, std::string_view key) {
  value.clear();
  if (json.is_null()) return;
  require<ConfigError>(json.is_array(), "{} is {}, expected a list", key, json_excerpt(json));
  for (const auto& element : json) {
    T item{};
    from(element, item, key);
    value.push_back(std::move(item));
  }
}
/// Reads null as an empty OneOrMany.
template <class T>
void from(const Json& json, OneOrMany<T>& value, std::string_view key) {
  value = {};
  if (json.is_null()) return;
  if (json.is_array()) {
    std::vector<T> items;
    from(json, items, key);
    value = std::move(items);
  } else {
    T item{};
    from(json, item, key);
    value = item;
  }
}
template <class T>
void from(const Json& json, std::optional<T>& value, std::string_view key) {
  value.reset();
  if (json.is_null()) return;
  from(json, value.emplace(), key);
}

/// A list field that is never None in Python. An empty list is written as `[]`.
template <class T>
struct PlainList {
  std::vector<T>& values;
};
template <class T>
void from(const Json& json, PlainList<T>& list, std::string_view key) {
  from(json, list.values, key);
}

inline Json to(bool value) { return value; }
inline Json to(int64_t value) { return value; }
inline Json to(double value) { return value; }
inline Json to(const std::string& value) { return value; }
template <class Enum>
requires std::is_enum_v<Enum> Json to(Enum value) { return std::string(enum_name(value)); }
template <class Enum>
Json to(EnumChoice<Enum> value) {
  return std::string(value.name());
}
template <class T>
Json to(const std::vector<T>& value);
template <class T>
Json to(const OneOrMany<T>& value);
/// Writes an empty optional as null.
template <class T>
Json to(const std::optional<T>& value) {
  return value ? to(*value) : Json(nullptr);
}
/// Writes a list. fields_to_json decides whether an empty list means None.
template <class T>
Json to(const std::vector<T>& value) {
  Json json = Json::array();
  for (const auto& element : value) json.push_back(to(element));
  return json;
}
template <class T>
Json to(const OneOrMany<T>& value) {
  if (value.empty()) return nullptr;
  return value.is_list() ? to(value.values()) : to(value.value());
}

template <class T>
Json to(const PlainList<T>& list) {
  return to(list.values);
}

template <class Field>
inline constexpr bool kIsPlainList = false;
template <class T>
inline constexpr bool kIsPlainList<PlainList<T>> = true;

/// Returns the fields of `config` as a JSON object.
template <class Config>
Json fields_to_json(const Config& config) {
  Json json = Json::object();
  // visit_fields also reads configs, so it takes a mutable reference. The copy keeps `config` const.
  Config copy = config;
  visit_fields(copy, [&](const char* key, auto& field) {
    json[key] = to(field);
    // An empty vector stands for Python's None in a list field.
    if (!kIsPlainList<std::decay_t<decltype(field)>> && json[key].is_array() && json[key].empty())
      json[key] = nullptr;
  });
  return json;
}

/// Sets the fields of `config` that `json` names. null is an error for a field that cannot be None.
/// @return the members of `json` that are not fields of `config`
/// @throws ConfigError naming `where` and the key
template <class Config>
Json fields_from_json(const Json& json, Config& config, std::string_view where) {
  require<ConfigError>(json.is_object(), "{}: expected a JSON object", where);
  Json rest = json;
  visit_fields(config, [&](const char* key, auto& field) {
    const auto found = json.find(key);
    if (found == json.end()) return;
    try {
      from(*found, field, key);
    } catch (const ConfigError& error) {
      fail<ConfigError>("{}: {}", where, error.what());
    }
    rest.erase(key);
  });
  return rest;
}

}  // namespace config_json
}  // namespace internal
}  // namespace diffusers
