#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>

namespace diffusers {

/// A config field that Python declares as `int | tuple[int]`. It takes both `= 8` and `= {5, 10, 20}`. An
/// empty field stands for Python's None.
/// @tparam T type of a value
template <class T>
class OneOrMany {
 public:
  /// Makes an empty field, Python's None.
  OneOrMany() = default;
  // NOLINTBEGIN(google-explicit-constructor): fields are initialised with `= 8` and `= {5, 10, 20}`.
  /// Makes a field of one value.
  /// @param value the value
  OneOrMany(T value) : values_{std::move(value)}, is_list_(false) {}
  /// Makes a list.
  /// @param values the elements
  OneOrMany(std::initializer_list<T> values) : values_(values), is_list_(true) {}
  /// Makes a list.
  /// @param values the elements
  OneOrMany(std::vector<T> values) : values_(std::move(values)), is_list_(true) {}

  /// Converts to the single value: `int64_t heads = config.attention_head_dim`. A list of one element
  /// converts as well.
  /// @return the value
  /// @throws ConfigError if the field is empty or a list of several elements
  operator T() const requires std::is_arithmetic_v<T> {
    if (values_.size() == 1) return values_.front();
    std::string found = values_.empty() ? "none" : std::to_string(values_.size()) + ":";
    for (std::size_t i = 0; i < values_.size(); ++i)
      found += (i > 0 ? ", " : " ") + std::to_string(values_[i]);
    throw ConfigError("expected a config field with a single value, found " + found);
  }
  // NOLINTEND(google-explicit-constructor)

  /// Returns true for Python's None.
  bool empty() const { return values_.empty(); }
  /// Returns true if a list was given, even of one element.
  bool is_list() const { return is_list_; }
  /// Returns the single value or the elements of the list.
  const std::vector<T>& values() const { return values_; }
  /// Returns the single value, or the first of a list. The field must not be empty.
  typename std::vector<T>::const_reference value() const { return values_.front(); }
  /// Gives one value per block.
  /// @param count number of blocks
  /// @return a single value `count` times; a list or an empty field unchanged
  std::vector<T> expand(std::size_t count) const {
    return is_list_ || values_.empty() ? values_ : std::vector<T>(count, values_.front());
  }

  /// Compares values; a single value differs from a list of one element.
  bool operator==(const OneOrMany&) const = default;
  /// Compares with a single value.
  /// @param value an arithmetic value
  /// @return true if the field is that single value; false for a list
  template <class Value>
  requires(std::is_arithmetic_v<Value>&& std::is_arithmetic_v<T>) bool operator==(const Value& value) const {
    return !is_list_ && values_.size() == 1 && values_.front() == static_cast<T>(value);
  }

 private:
  std::vector<T> values_;
  bool is_list_ = false;
};

/// A config field that Python declares as `int | tuple[int] | tuple[tuple]`. It takes `= 8`, `= {1, 2, 10}`
/// and `= {{1, 2}, {2, 2}, 1}`.
class NestedOneOrMany : public OneOrMany<OneOrMany<int64_t>> {
 public:
  using OneOrMany<OneOrMany<int64_t>>::OneOrMany;
  /// Makes an empty field, Python's None.
  NestedOneOrMany() = default;
  /// Makes a field of one number.
  /// @param value the number
  template <std::integral Integer>
  NestedOneOrMany(Integer value)  // NOLINT(google-explicit-constructor)
      : OneOrMany<OneOrMany<int64_t>>(OneOrMany<int64_t>(static_cast<int64_t>(value))) {}
  /// Makes a field from a field of one level.
  /// @param field a number, a list or None
  // By value: a reference would be as good a match as the inherited constructor.
  // NOLINTNEXTLINE(google-explicit-constructor,performance-unnecessary-value-param)
  NestedOneOrMany(OneOrMany<int64_t> field)
      : OneOrMany<OneOrMany<int64_t>>(field.is_list()
                                          ? OneOrMany<OneOrMany<int64_t>>(std::vector<OneOrMany<int64_t>>(
                                                field.values().begin(), field.values().end()))
                                      : field.empty() ? OneOrMany<OneOrMany<int64_t>>()
                                                      : OneOrMany<OneOrMany<int64_t>>(field)) {}
  /// Compares values; a single value differs from a list of one element.
  bool operator==(const NestedOneOrMany&) const = default;
};

}  // namespace diffusers
