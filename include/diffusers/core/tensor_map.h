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

/// Name -> tensor, in the order of insertion (for a loaded file: the order of the file). Iterates as
/// `for (const auto& [name, tensor] : tensors)`.
class TensorMap {
 public:
  using value_type = std::pair<std::string, at::Tensor>;
  using const_iterator = std::vector<value_type>::const_iterator;

  TensorMap() = default;
  TensorMap(std::initializer_list<value_type> items);
  /// Takes any range of pairs or of `torch::OrderedDict` items, such as `module->named_parameters()`.
  template <class Range>
  requires requires(const Range& range) { range.begin()->key(), range.begin()->value(); }
  TensorMap(const Range& range) {  // NOLINT(google-explicit-constructor)
    for (const auto& item : range) insert(item.key(), item.value());
  }
  template <class Range>
  requires requires(const Range& range) { range.begin()->first, range.begin()->second; }
  TensorMap(const Range& range) {  // NOLINT(google-explicit-constructor)
    for (const auto& [name, tensor] : range) insert(name, tensor);
  }

  std::size_t size() const { return items_.size(); }
  bool empty() const { return items_.empty(); }
  bool contains(std::string_view name) const;
  std::size_t count(std::string_view name) const { return contains(name) ? 1 : 0; }
  /// @throws Error if there is no such tensor, naming it
  const at::Tensor& at(std::string_view name) const;
  const at::Tensor& operator[](std::string_view name) const { return at(name); }
  /// The tensor of that name for assignment; a new, undefined one at the end if there was none.
  at::Tensor& operator[](std::string_view name);
  const_iterator find(std::string_view name) const;
  const_iterator begin() const { return items_.begin(); }
  const_iterator end() const { return items_.end(); }
  std::vector<std::string> keys() const;

  /// Adds or replaces.
  void insert(std::string_view name, at::Tensor tensor);
  /// @return true if there was such a tensor
  bool erase(std::string_view name);

 private:
  std::vector<value_type> items_;
  std::unordered_map<std::string, std::size_t> index_;
};

}  // namespace diffusers
