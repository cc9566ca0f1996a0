#pragma once

// Runs the phases of the CUDA kernels on the host, block by block and thread by thread, with the functions
// that the kernels call.

#include <cstdint>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/cuda/host_device.h"

namespace diffusers::testing {

/// Combines the values of a block's threads in the order of `combine_over_block`.
template <class T>
T combine_over_threads(std::vector<T> values) {
  EXPECT_EQ(values.size() % cuda::kWarpSize, 0U);
  for (std::size_t offset = cuda::kWarpSize / 2; offset > 0; offset /= 2) {
    const std::vector<T> before = values;
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = merge(before[i], before[i ^ offset]);
  }
  T result = values[0];
  for (std::size_t i = cuda::kWarpSize; i < values.size(); i += cuda::kWarpSize)
    result = merge(result, values[i]);
  return result;
}

/// Counts how often each element of an array is written.
class Coverage {
 public:
  explicit Coverage(int64_t size) : counts_(static_cast<std::size_t>(size)) {}
  void add(int64_t begin, int64_t size = 1) {
    for (int64_t i = begin; i < begin + size; ++i) ++counts_.at(static_cast<std::size_t>(i));
  }
  /// Returns true if each element was written exactly once.
  bool is_complete() const {
    for (const int count : counts_)
      if (count != 1) return false;
    return true;
  }

 private:
  std::vector<int> counts_;
};

/// Returns the elements of a tensor as float32, in the order of its indices.
inline std::vector<float> floats_of(const at::Tensor& tensor) {
  const at::Tensor values = tensor.to(at::kFloat).contiguous();
  const auto* begin = values.const_data_ptr<float>();
  return {begin, begin + values.numel()};
}

}  // namespace diffusers::testing
