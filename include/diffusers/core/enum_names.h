#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include <diffusers/core/error.h>

namespace diffusers {

/// The Python strings of an enumeration. Each enumeration has a specialisation with the table:
/// @code
/// template <>
/// struct EnumNames<PredictionType> {
///   static constexpr std::array<std::pair<PredictionType, std::string_view>, 3> kTable{{...}};
/// };
/// @endcode
template <class Enum>
struct EnumNames;

/// Returns the Python string of an enumerator.
/// @param value the enumerator
/// @return the string, such as "v_prediction"; "unknown" if the table does not have the enumerator
template <class Enum>
constexpr std::string_view enum_name(Enum value) {
  for (const auto& [enumerator, name] : EnumNames<Enum>::kTable)
    if (enumerator == value) return name;
  return "unknown";
}

/// Returns the enumerator of a Python string.
/// @param name the Python string
/// @param key name of the config key that holds the string; error messages print it
/// @return the enumerator
/// @throws ConfigError naming the key, the string and the valid strings
template <class Enum>
Enum enum_from_name(std::string_view name, std::string_view key) {
  for (const auto& [enumerator, text] : EnumNames<Enum>::kTable)
    if (text == name) return enumerator;
  std::string message = std::string(key) + " is \"" + std::string(name) + "\", expected one of:";
  for (const auto& entry : EnumNames<Enum>::kTable) message += " \"" + std::string(entry.second) + "\"";
  throw ConfigError(message);
}

}  // namespace diffusers
