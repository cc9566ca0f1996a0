#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include <diffusers/core/error.h>

namespace diffusers {

/// The Python strings of an enumeration, one table for each closed set. Specialised next to the enumeration:
/// @code
/// template <>
/// struct EnumNames<PredictionType> {
///   static constexpr std::array<std::pair<PredictionType, std::string_view>, 3> kTable{{...}};
/// };
/// @endcode
template <class Enum>
struct EnumNames;

/// The Python string of an enumerator, e.g. "v_prediction".
template <class Enum>
constexpr std::string_view enum_name(Enum value) {
  for (const auto& [enumerator, name] : EnumNames<Enum>::kTable)
    if (enumerator == value) return name;
  return "unknown";
}

/// The enumerator of a Python string.
/// @param key the config key that holds the string, for the message
/// @throws ConfigError naming the key, the value and the values that exist
template <class Enum>
Enum enum_from_name(std::string_view name, std::string_view key) {
  for (const auto& [enumerator, text] : EnumNames<Enum>::kTable)
    if (text == name) return enumerator;
  std::string message = std::string(key) + " is \"" + std::string(name) + "\", expected one of:";
  for (const auto& entry : EnumNames<Enum>::kTable) message += " \"" + std::string(entry.second) + "\"";
  throw ConfigError(message);
}

}  // namespace diffusers
