#pragma once

// Lists of tensors as LibTorch's fused and foreach kernels want them.

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>

namespace diffusers {

using DeviceAndDtype = std::pair<std::string, at::ScalarType>;

inline DeviceAndDtype device_and_dtype(const Tensor& tensor) {
  return {tensor.device().str(), tensor.scalar_type()};
}

/// Lists of one device and dtype each.
inline std::map<DeviceAndDtype, std::vector<Tensor>> by_device_and_dtype(const std::vector<Tensor>& tensors) {
  std::map<DeviceAndDtype, std::vector<Tensor>> groups;
  for (const Tensor& tensor : tensors) groups[device_and_dtype(tensor)].push_back(tensor);
  return groups;
}

/// The gradients that exist.
inline std::vector<Tensor> gradients(const std::vector<Tensor>& parameters) {
  std::vector<Tensor> grads;
  for (const Tensor& parameter : parameters)
    if (parameter.grad().defined()) grads.push_back(parameter.grad());
  return grads;
}

}  // namespace diffusers
