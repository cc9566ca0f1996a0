#pragma once

#include <memory>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// A table on the host and its copies on devices and in other dtypes, each uploaded once. Copies of this
/// object share them. Thread-safe.
class DeviceTable {
 public:
  DeviceTable() = default;
  explicit DeviceTable(at::Tensor host);

  const at::Tensor& host() const { return host_; }
  at::Tensor on(at::Device device, at::ScalarType dtype) const;

 private:
  struct Copies;
  at::Tensor host_;
  std::shared_ptr<Copies> copies_;
};

}  // namespace diffusers
