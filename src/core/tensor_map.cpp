#include <utility>

#include <diffusers/core/tensor_map.h>

#include "core/require.h"

namespace diffusers {

TensorMap::TensorMap(std::initializer_list<value_type> items) {
  for (const auto& [name, tensor] : items) insert(name, tensor);
}

bool TensorMap::contains(std::string_view name) const { return index_.contains(std::string(name)); }

const at::Tensor& TensorMap::at(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  if (found == index_.end()) fail("there is no tensor \"{}\" among {} tensors", name, items_.size());
  return items_[found->second].second;
}

at::Tensor& TensorMap::operator[](std::string_view name) {
  const auto [entry, is_new] = index_.try_emplace(std::string(name), items_.size());
  if (is_new) items_.emplace_back(name, at::Tensor());
  return items_[entry->second].second;
}

TensorMap::const_iterator TensorMap::find(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  return found == index_.end() ? items_.end() : items_.begin() + static_cast<std::ptrdiff_t>(found->second);
}

std::vector<std::string> TensorMap::keys() const {
  std::vector<std::string> names;
  names.reserve(items_.size());
  for (const auto& item : items_) names.push_back(item.first);
  return names;
}

void TensorMap::insert(std::string_view name, at::Tensor tensor) { (*this)[name] = std::move(tensor); }

bool TensorMap::erase(std::string_view name) {
  const auto found = index_.find(std::string(name));
  if (found == index_.end()) return false;
  items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(found->second));
  index_.clear();
  for (std::size_t i = 0; i < items_.size(); ++i) index_.emplace(items_[i].first, i);
  return true;
}

}  // namespace diffusers
