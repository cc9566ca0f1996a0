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
  /// null, Python's None
  ConfigValue(std::nullptr_t);
  /// true or false. A template, so that no pointer becomes a truth value.
  template <std::same_as<bool> Bool>
  ConfigValue(Bool value) : json_(value ? "true" : "false") {}
  /// A whole number.
  template <std::integral Integer>
  requires(!std::same_as<Integer, bool>) ConfigValue(Integer value) : json_(std::to_string(value)) {}
  /// A number; NaN and infinities are written as Python writes them.
  ConfigValue(double value);
  /// A string.
  ConfigValue(std::string_view text);
  /// A string.
  ConfigValue(const char* text) : ConfigValue(std::string_view(text)) {}
  /// A string.
  ConfigValue(const std::string& text) : ConfigValue(std::string_view(text)) {}
  /// The string of an enumerator.
  template <class Enum>
  requires std::is_enum_v<Enum> ConfigValue(Enum value) : ConfigValue(enum_name(value)) {}
  /// A list of numbers.
  ConfigValue(const std::vector<double>& values);
  /// A list of whole numbers.
  ConfigValue(const std::vector<int64_t>& values);
  // NOLINTEND(google-explicit-constructor)

  /// The value as JSON text.
  const std::string& json() const { return json_; }

 private:
  std::string json_;
};

/// A config key and the value that replaces the one of the file.
struct ConfigOverride {
  std::string key;    ///< Name of the config field.
  ConfigValue value;  ///< New value of the field.
};

/// Values that win over those of a config, as the keyword arguments of Python's `from_config` do:
/// @code
/// auto ddim = DDIMScheduler::from_config(ddpm.config_json(), {{"timestep_spacing", "trailing"}});
/// @endcode
class ConfigOverrides {
 public:
  /// No overrides.
  ConfigOverrides() = default;
  // NOLINTBEGIN(google-explicit-constructor): given as `{{"steps_offset", 1}, {"clip_sample", false}}`.
  /// Keys and values. A key that stands twice is refused when the config is read.
  ConfigOverrides(std::initializer_list<ConfigOverride> overrides);
  /// Keys and values.
  ConfigOverrides(const std::vector<ConfigOverride>& overrides);
  /// A JSON object as text. Empty text: no overrides.
  ConfigOverrides(std::string_view json) : json_(json) {}
  /// A JSON object as text.
  ConfigOverrides(const char* json) : json_(json) {}
  /// A JSON object as text.
  ConfigOverrides(const std::string& json) : json_(json) {}
  // NOLINTEND(google-explicit-constructor)

  /// Whether there is nothing to override.
  bool empty() const { return json_.empty(); }
  /// The overrides as the text of a JSON object; empty if there are none.
  const std::string& json() const { return json_; }

 private:
  std::string json_;
};

}  // namespace diffusers
