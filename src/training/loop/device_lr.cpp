#include "training/loop/device_lr.h"

#include <utility>
#include <vector>

#include <ATen/ATen.h>

namespace diffusers {
inline namespace internal {

DeviceLr::DeviceLr(LRSchedule schedule, int64_t window, at::Device device)
    : schedule_(std::move(schedule)), window_(window), device_(device) {}

void DeviceLr::settle(int64_t steps, int64_t skipped) {
  settled_steps_ = steps;
  settled_taken_ = steps - skipped;
  std::vector<double> factors;
  for (int64_t i = 0; i <= window_; ++i) factors.push_back(schedule_(settled_taken_ + i));
  table_ = at::tensor(factors, at::kDouble).to(device_);
}

bool DeviceLr::needs_settling(int64_t steps) const {
  return !table_.defined() || steps - settled_steps_ > window_;
}

Tensor DeviceLr::factor(int64_t steps, const Tensor& skipped) const {
  // Steps that were taken since `settle`: from 0 to the window.
  const Tensor index = skipped.to(at::kDouble).neg().add(steps - settled_taken_).to(at::kLong);
  return table_.index_select(0, index.view({1})).squeeze();
}

}  // namespace internal
}  // namespace diffusers
