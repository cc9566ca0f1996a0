#pragma once

#include <memory>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// A table on the host and its copies on devices and in other dtypes, each uploaded once. Copies of this
/// object share them. Thread-safe.
class DeviceTable {
 public:
  /// An undefined table.
  DeviceTable() = default;
  /// @param host the table, on the CPU
  explicit DeviceTable(at::Tensor host);

  /// The table on the CPU.
  const at::Tensor& host() const { return host_; }
  /// The table on a device, uploaded by the first call.
  /// @param device the device
  /// @param dtype the dtype
  /// @return shape of the table; not to be written to
  at::Tensor on(at::Device device, at::ScalarType dtype) const;

 private:
  struct Copies;
  at::Tensor host_;
  std::shared_ptr<Copies> copies_;
};

}  // namespace diffusers
