#pragma once

#include <string_view>

#include <diffusers/core/enum_names.h>

namespace diffusers {

/// A config field of a closed set that takes both the enumerator and Python's string:
/// `.time_embedding_type = TimeEmbeddingType::kFourier` and `.time_embedding_type = "fourier"`.
/// `EnumNames<Enum>` must also have `kKey`, the name of the config key, for messages.
template <class Enum>
class EnumChoice {
 public:
  constexpr EnumChoice() = default;
  constexpr EnumChoice(Enum value) : value_(value) {}  // NOLINT(google-explicit-constructor)
  /// @throws ConfigError naming the key, the value and the values that exist
  EnumChoice(std::string_view name)  // NOLINT(google-explicit-constructor)
      : value_(enum_from_name<Enum>(name, EnumNames<Enum>::kKey)) {}
  EnumChoice(const char* name) : EnumChoice(std::string_view(name)) {}  // NOLINT(google-explicit-constructor)

  constexpr Enum value() const { return value_; }
  constexpr operator Enum() const { return value_; }  // NOLINT(google-explicit-constructor)
  /// Python's string.
  constexpr std::string_view name() const { return enum_name(value_); }

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
