#pragma once

#include <memory>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// A table on the host with copies on devices and in other dtypes. Each copy is made once. Copies of this
/// object share the table and its copies. Thread-safe.
class DeviceTable {
 public:
  /// Makes an undefined table.
  DeviceTable() = default;
  /// Makes a table.
  /// @param host the table, on the CPU
  explicit DeviceTable(at::Tensor host);

  /// Returns the table on the CPU.
  const at::Tensor& host() const { return host_; }
  /// Returns the table on a device. The first call copies it.
  /// @param device the device
  /// @param dtype the dtype
  /// @return a tensor of the shape of the table, which must not be modified
  at::Tensor on(at::Device device, at::ScalarType dtype) const;

 private:
  struct Copies;
  at::Tensor host_;
  std::shared_ptr<Copies> copies_;
};

}  // namespace diffusers
