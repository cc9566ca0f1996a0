#pragma once

#include <diffusers/training/training_config.h>

#include <ATen/autocast_mode.h>

namespace diffusers {

/// Lets the model compute in half precision where that is safe (Python: `torch.autocast`).
class Autocast {
 public:
  Autocast(at::DeviceType device, MixedPrecision precision)
      : device_(device), is_on_(precision != MixedPrecision::kNo) {
    if (!is_on_) return;
    was_on_ = at::autocast::is_autocast_enabled(device_);
    previous_dtype_ = at::autocast::get_autocast_dtype(device_);
    at::autocast::set_autocast_enabled(device_, true);
    at::autocast::set_autocast_dtype(device_, precision == MixedPrecision::kFp16 ? at::kHalf : at::kBFloat16);
    at::autocast::increment_nesting();
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;
  ~Autocast() {
    if (!is_on_) return;
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device_, was_on_);
    at::autocast::set_autocast_dtype(device_, previous_dtype_);
  }

 private:
  at::DeviceType device_;
  bool is_on_;
  bool was_on_ = false;
  at::ScalarType previous_dtype_ = at::kFloat;
};

}  // namespace diffusers
