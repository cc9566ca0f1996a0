#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <diffusers/core/enum_names.h>

namespace diffusers {

/// A value of a config key: null, a truth value, a number, a string, an enumerator or a list.
class ConfigValue {
 public:
  // NOLINTBEGIN(google-explicit-constructor): values are written as `{"steps_offset", 1}`.
  /// Makes null, Python's None.
  ConfigValue(std::nullptr_t);
  /// Makes true or false. It is a template so that no pointer converts to a truth value.
  template <std::same_as<bool> Bool>
  ConfigValue(Bool value) : json_(value ? "true" : "false") {}
  /// Makes a whole number.
  template <std::integral Integer>
  requires(!std::same_as<Integer, bool>) ConfigValue(Integer value) : json_(std::to_string(value)) {}
  /// Makes a number. NaN and infinities are written as Python writes them.
  ConfigValue(double value);
  /// Makes a string.
  ConfigValue(std::string_view text);
  /// Makes a string.
  ConfigValue(const char* text) : ConfigValue(std::string_view(text)) {}
  /// Makes a string.
  ConfigValue(const std::string& text) : ConfigValue(std::string_view(text)) {}
  /// Makes the string of an enumerator.
  template <class Enum>
  requires std::is_enum_v<Enum> ConfigValue(Enum value) : ConfigValue(enum_name(value)) {}
  /// Makes a list of numbers.
  ConfigValue(const std::vector<double>& values);
  /// Makes a list of whole numbers.
  ConfigValue(const std::vector<int64_t>& values);
  // NOLINTEND(google-explicit-constructor)

  /// Returns the value as JSON text.
  const std::string& json() const { return json_; }

 private:
  std::string json_;
};

/// A config key and its new value.
struct ConfigOverride {
  std::string key;    ///< Name of the config field.
  ConfigValue value;  ///< New value of the field.
};

/// Values that replace those of a config, as the keyword arguments of Python's `from_config` do:
/// @code
/// auto ddim = DDIMScheduler::from_config(ddpm.config_json(), {{"timestep_spacing", "trailing"}});
/// @endcode
class ConfigOverrides {
 public:
  /// Makes an empty set of overrides.
  ConfigOverrides() = default;
  // NOLINTBEGIN(google-explicit-constructor): given as `{{"steps_offset", 1}, {"clip_sample", false}}`.
  /// Takes keys and values. A key that occurs twice is a ConfigError when the config is read.
  ConfigOverrides(std::initializer_list<ConfigOverride> overrides);
  /// Takes keys and values, like the constructor from a list in braces.
  ConfigOverrides(const std::vector<ConfigOverride>& overrides);
  /// Takes a JSON object as text. Empty text means no overrides.
  ConfigOverrides(std::string_view json) : json_(json) {}
  /// Takes a JSON object as text. Empty text means no overrides.
  ConfigOverrides(const char* json) : json_(json) {}
  /// Takes a JSON object as text. Empty text means no overrides.
  ConfigOverrides(const std::string& json) : json_(json) {}
  // NOLINTEND(google-explicit-constructor)

  /// Returns true if there are no overrides.
  bool empty() const { return json_.empty(); }
  /// Returns the overrides as the text of a JSON object; empty if there are none.
  const std::string& json() const { return json_; }

 private:
  std::string json_;
};

}  // namespace diffusers
