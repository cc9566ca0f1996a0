#include "training/distributed/parameter_shards.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

ParameterShards::ParameterShards(const std::vector<Tensor>& parameters, int64_t processes, int64_t rank)
    : rank_(rank) {
  std::vector<std::size_t> order(parameters.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t first, std::size_t second) {
    return parameters[first].nbytes() > parameters[second].nbytes();
  });
  std::vector<std::size_t> bytes(static_cast<std::size_t>(processes), 0);
  for (const std::size_t i : order) {
    const auto least = std::min_element(bytes.begin(), bytes.end());
    // A module may give a parameter twice.
    if (owners_.emplace(parameters[i].unsafeGetTensorImpl(), least - bytes.begin()).second)
      *least += parameters[i].nbytes();
  }
}

bool ParameterShards::contains(const Tensor& parameter) const {
  return owners_.contains(parameter.unsafeGetTensorImpl());
}

int64_t ParameterShards::owner(const Tensor& parameter) const {
  const auto found = owners_.find(parameter.unsafeGetTensorImpl());
  require(found != owners_.end(), "ParameterShards: {} is not one of the {} trained parameters",
          describe(parameter), owners_.size());
  return found->second;
}

bool ParameterShards::is_own(const Tensor& parameter) const {
  const auto found = owners_.find(parameter.unsafeGetTensorImpl());
  return found != owners_.end() && found->second == rank_;
}

std::vector<ShardBucket> ParameterShards::buckets(const std::vector<Tensor>& parameters,
                                                  int64_t cap_bytes) const {
  std::vector<ShardBucket> full;
  std::map<std::pair<int64_t, at::ScalarType>, ShardBucket> open;
  for (const Tensor& parameter : parameters) {
    ShardBucket& bucket = open[{owner(parameter), parameter.scalar_type()}];
    const int64_t numel = bucket.numel + parameter.numel();
    if (!bucket.parameters.empty() && numel * parameter.element_size() > cap_bytes)
      full.push_back(std::exchange(bucket, {}));
    bucket.owner = owner(parameter);
    bucket.parameters.push_back(parameter);
    bucket.numel += parameter.numel();
  }
  for (auto& entry : open) full.push_back(std::move(entry.second));
  return full;
}

Tensor part_of_flat(const Tensor& flat, int64_t begin, const Tensor& parameter) {
  const Tensor part = flat.narrow(0, begin, parameter.numel());
  return parameter.is_non_overlapping_and_dense() ? part.as_strided(parameter.sizes(), parameter.strides())
                                                  : part.view(parameter.sizes());
}

}  // namespace internal
}  // namespace diffusers
