#pragma once

#include <functional>
#include <vector>

#include <diffusers/core/tensor.h>

#include <torch/types.h>

namespace diffusers {
inline namespace internal {

/// Returns function(batch). With `slicing`, calls `function` for one sample of `batch` at a time and joins
/// the results.
inline Tensor for_each_sample(const Tensor& batch, bool slicing,
                              const std::function<Tensor(const Tensor&)>& function) {
  if (!slicing || batch.size(0) <= 1) return function(batch);
  std::vector<Tensor> results;
  for (const auto& slice : batch.split(1)) results.push_back(function(slice));
  return torch::cat(results);
}

}  // namespace internal
}  // namespace diffusers
