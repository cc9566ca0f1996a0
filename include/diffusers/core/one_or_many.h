#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

namespace diffusers {

/// A config field that Python declares as `int | tuple[int]`: takes both `= 8` and `= {5, 10, 20}`. Empty
/// stands for Python's None.
template <class T>
class OneOrMany {
 public:
  OneOrMany() = default;
  // NOLINTBEGIN(google-explicit-constructor): fields are initialised with `= 8` and `= {5, 10, 20}`.
  OneOrMany(T value) : values_{std::move(value)}, is_list_(false) {}
  OneOrMany(std::initializer_list<T> values) : values_(values), is_list_(true) {}
  OneOrMany(std::vector<T> values) : values_(std::move(values)), is_list_(true) {}
  // NOLINTEND(google-explicit-constructor)

  bool empty() const { return values_.empty(); }
  /// True where a list was given, even of one element.
  bool is_list() const { return is_list_; }
  const std::vector<T>& values() const { return values_; }
  /// The single value, or the first of a list. The field must not be empty.
  typename std::vector<T>::const_reference value() const { return values_.front(); }
  /// One value per block: a single one is repeated `count` times, a list is returned as it is.
  std::vector<T> expand(std::size_t count) const {
    return is_list_ || values_.empty() ? values_ : std::vector<T>(count, values_.front());
  }
  bool operator==(const OneOrMany&) const = default;

 private:
  std::vector<T> values_;
  bool is_list_ = false;
};

/// A config field that Python declares as `int | tuple[int] | tuple[tuple]`: takes `= 8`, `= {1, 2, 10}` and
/// `= {{1, 2}, {2, 2}, 1}`.
class NestedOneOrMany : public OneOrMany<OneOrMany<int64_t>> {
 public:
  using OneOrMany<OneOrMany<int64_t>>::OneOrMany;
  NestedOneOrMany() = default;
  template <std::integral Integer>
  NestedOneOrMany(Integer value)  // NOLINT(google-explicit-constructor)
      : OneOrMany<OneOrMany<int64_t>>(OneOrMany<int64_t>(static_cast<int64_t>(value))) {}
  /// From a field of one level.
  NestedOneOrMany(const OneOrMany<int64_t>& field)  // NOLINT(google-explicit-constructor)
      : OneOrMany<OneOrMany<int64_t>>(field.is_list()
                                          ? OneOrMany<OneOrMany<int64_t>>(std::vector<OneOrMany<int64_t>>(
                                                field.values().begin(), field.values().end()))
                                      : field.empty() ? OneOrMany<OneOrMany<int64_t>>()
                                                      : OneOrMany<OneOrMany<int64_t>>(field)) {}
  bool operator==(const NestedOneOrMany&) const = default;
};

}  // namespace diffusers
