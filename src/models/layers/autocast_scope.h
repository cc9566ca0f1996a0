#pragma once

#include <ATen/autocast_mode.h>

namespace diffusers {

/// Whether, and to what, autocast lowers the precision of the calling thread.
struct AutocastState {
  at::DeviceType device = at::kCPU;
  bool enabled = false;
  at::ScalarType dtype = at::kFloat;

  static AutocastState current(at::DeviceType device) {
    return {device, at::autocast::is_autocast_enabled(device), at::autocast::get_autocast_dtype(device)};
  }
};

/// Autocast as it was elsewhere (at the forward, in another thread), put back when the scope ends. Its cache
/// of converted weights is off: what one graph puts there belongs to that graph alone.
class AutocastScope {
 public:
  explicit AutocastScope(const AutocastState& state)
      : before_(AutocastState::current(state.device)),
        was_caching_(at::autocast::is_autocast_cache_enabled()) {
    set(state, false);
  }
  ~AutocastScope() { set(before_, was_caching_); }
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  static void set(const AutocastState& state, bool caching) {
    at::autocast::set_autocast_enabled(state.device, state.enabled);
    at::autocast::set_autocast_dtype(state.device, state.dtype);
    at::autocast::set_autocast_cache_enabled(caching);
  }

  AutocastState before_;
  bool was_caching_;
};

}  // namespace diffusers
