#pragma once

#include <string_view>

#include <diffusers/core/enum_names.h>

namespace diffusers {

/// A config field with a closed set of values. It accepts the enumerator or Python's string:
/// `.time_embedding_type = TimeEmbeddingType::kFourier` or `.time_embedding_type = "fourier"`.
/// `EnumNames<Enum>` must also have `kKey`, the name of the config key, which error messages print.
/// @tparam Enum the enumeration
template <class Enum>
class EnumChoice {
 public:
  /// Holds the first enumerator.
  constexpr EnumChoice() = default;
  /// Holds an enumerator.
  /// @param value the enumerator
  constexpr EnumChoice(Enum value) : value_(value) {}  // NOLINT(google-explicit-constructor)
  /// Holds the enumerator of a Python string.
  /// @param name Python's string
  /// @throws ConfigError naming the key, the string and the valid strings
  EnumChoice(std::string_view name)  // NOLINT(google-explicit-constructor)
      : value_(enum_from_name<Enum>(name, EnumNames<Enum>::kKey)) {}
  /// Holds the enumerator of a Python string.
  /// @param name Python's string
  /// @throws ConfigError naming the key, the string and the valid strings
  EnumChoice(const char* name) : EnumChoice(std::string_view(name)) {}  // NOLINT(google-explicit-constructor)

  /// Returns the enumerator.
  constexpr Enum value() const { return value_; }
  /// Converts to the enumerator.
  constexpr operator Enum() const { return value_; }  // NOLINT(google-explicit-constructor)
  /// Returns Python's string.
  constexpr std::string_view name() const { return enum_name(value_); }

  /// Compares with another choice.
  friend constexpr bool operator==(EnumChoice a, EnumChoice b) { return a.value_ == b.value_; }
  /// Compares with an enumerator.
  friend constexpr bool operator==(EnumChoice a, Enum b) { return a.value_ == b; }
  /// Compares with a Python string. An unknown string is unequal to every choice.
  friend constexpr bool operator==(EnumChoice a, std::string_view b) { return a.name() == b; }
  /// Compares with a Python string. An unknown string is unequal to every choice.
  friend constexpr bool operator==(EnumChoice a, const char* b) { return a.name() == b; }

 private:
  Enum value_{};
};

/// Returns Python's string of a field.
/// @param value the field
/// @return the string, such as "fourier"
template <class Enum>
constexpr std::string_view enum_name(EnumChoice<Enum> value) {
  return value.name();
}

}  // namespace diffusers
