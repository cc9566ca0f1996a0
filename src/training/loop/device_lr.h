#pragma once

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/training/lr_scheduler.h>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

/// The factors of a learning rate schedule on a device, chosen there by a number of skipped steps that the
/// host has not read. A table of the next factors is uploaded by `settle`.
class DeviceLr {
 public:
  /// @param window the number of steps from one `settle` to the next
  DeviceLr(LRSchedule schedule, int64_t window, at::Device device);

  /// @param steps that were done, skipped ones included
  /// @param skipped of them, as read from the device
  void settle(int64_t steps, int64_t skipped);
  /// Returns true if `settle` must come before the step after `steps`.
  bool needs_settling(int64_t steps) const;
  /// The factor of the step after `steps`, of which `skipped` (0-dim, on the device) were skipped.
  /// @return float64, 0-dim, on the device
  Tensor factor(int64_t steps, const Tensor& skipped) const;

 private:
  LRSchedule schedule_;
  int64_t window_;
  at::Device device_;
  int64_t settled_steps_ = 0;
  int64_t settled_taken_ = 0;
  Tensor table_;  // [window + 1] float64; undefined before the first `settle`
};

}  // namespace internal
}  // namespace diffusers
