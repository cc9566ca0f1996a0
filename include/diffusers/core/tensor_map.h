#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Tensors by name, in the order of insertion. A loaded file gives the order of the file.
/// @code
/// for (const auto& [name, tensor] : tensors) ...
/// @endcode
class TensorMap {
 public:
  /// A name and its tensor.
  using value_type = std::pair<std::string, at::Tensor>;
  /// Iterator over the pairs, in the order of insertion.
  using const_iterator = std::vector<value_type>::const_iterator;

  TensorMap() = default;
  /// Makes a map of `{{"a", tensor}, {"b", other}}`. A later tensor replaces an earlier one of the same name.
  TensorMap(std::initializer_list<value_type> items);
  /// Makes a map of the items of a `torch::OrderedDict`, such as `module->named_parameters()`.
  template <class Range>
  requires requires(const Range& range) { range.begin()->key(), range.begin()->value(); }
  TensorMap(const Range& range) {  // NOLINT(google-explicit-constructor)
    for (const auto& item : range) insert(item.key(), item.value());
  }
  /// Makes a map of a range of pairs, such as a `std::map<std::string, at::Tensor>`.
  template <class Range>
  requires requires(const Range& range) { range.begin()->first, range.begin()->second; }
  TensorMap(const Range& range) {  // NOLINT(google-explicit-constructor)
    for (const auto& [name, tensor] : range) insert(name, tensor);
  }

  /// Returns the number of tensors.
  std::size_t size() const { return items_.size(); }
  /// Returns true if there are no tensors.
  bool empty() const { return items_.empty(); }
  /// Returns true if there is a tensor of this name.
  bool contains(std::string_view name) const;
  /// Returns 1 if there is a tensor of this name, else 0.
  std::size_t count(std::string_view name) const { return contains(name) ? 1 : 0; }
  /// Returns the tensor of a name.
  /// @throws Error naming the tensor if there is none
  const at::Tensor& at(std::string_view name) const;
  /// Returns the tensor of a name.
  /// @throws Error naming the tensor if there is none
  const at::Tensor& operator[](std::string_view name) const { return at(name); }
  /// Returns the tensor of a name for assignment. A new name adds an undefined tensor at the end.
  at::Tensor& operator[](std::string_view name);
  /// Returns an iterator to the tensor of a name; `end()` if there is none.
  const_iterator find(std::string_view name) const;
  /// Returns an iterator to the first tensor.
  const_iterator begin() const { return items_.begin(); }
  /// Returns the iterator past the last tensor.
  const_iterator end() const { return items_.end(); }
  /// Returns the names, in the order of insertion.
  std::vector<std::string> keys() const;

  /// Adds a tensor at the end. If the name exists, its tensor is replaced and keeps its position.
  /// @param name name of the tensor
  /// @param tensor the tensor, which is shared, not copied
  void insert(std::string_view name, at::Tensor tensor);
  /// Removes a tensor.
  /// @param name name of the tensor
  /// @return true if there was a tensor of this name
  bool erase(std::string_view name);

 private:
  std::vector<value_type> items_;
  std::unordered_map<std::string, std::size_t> index_;
};

}  // namespace diffusers
