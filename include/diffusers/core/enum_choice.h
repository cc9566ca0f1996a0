#pragma once

#include <string_view>

#include <diffusers/core/enum_names.h>

namespace diffusers {

/// A config field with a closed set of values. It takes the enumerator or Python's string:
/// `.time_embedding_type = TimeEmbeddingType::kFourier` or `.time_embedding_type = "fourier"`.
/// `EnumNames<Enum>` must also have `kKey`, the name of the config key, for messages.
template <class Enum>
class EnumChoice {
 public:
  /// Holds the first enumerator.
  constexpr EnumChoice() = default;
  /// Holds an enumerator.
  constexpr EnumChoice(Enum value) : value_(value) {}  // NOLINT(google-explicit-constructor)
  /// Holds the enumerator of a Python string.
  /// @throws ConfigError naming the key, the string and the strings that exist
  EnumChoice(std::string_view name)  // NOLINT(google-explicit-constructor)
      : value_(enum_from_name<Enum>(name, EnumNames<Enum>::kKey)) {}
  /// Holds the enumerator of a Python string.
  /// @throws ConfigError naming the key, the string and the strings that exist
  EnumChoice(const char* name) : EnumChoice(std::string_view(name)) {}  // NOLINT(google-explicit-constructor)

  /// Returns the enumerator.
  constexpr Enum value() const { return value_; }
  /// Converts to the enumerator.
  constexpr operator Enum() const { return value_; }  // NOLINT(google-explicit-constructor)
  /// Returns Python's string.
  constexpr std::string_view name() const { return enum_name(value_); }

  /// Compares with another choice, an enumerator or a Python string.
  friend constexpr bool operator==(EnumChoice a, EnumChoice b) { return a.value_ == b.value_; }
  friend constexpr bool operator==(EnumChoice a, Enum b) { return a.value_ == b; }
  friend constexpr bool operator==(EnumChoice a, std::string_view b) { return a.name() == b; }
  friend constexpr bool operator==(EnumChoice a, const char* b) { return a.name() == b; }

 private:
  Enum value_{};
};

/// Python's string of a field.
template <class Enum>
constexpr std::string_view enum_name(EnumChoice<Enum> value) {
  return value.name();
}

}  // namespace diffusers
