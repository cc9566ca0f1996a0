#pragma once

#include <ATen/autocast_mode.h>

namespace diffusers {
inline namespace internal {

/// Autocast settings of the calling thread: enabled or not, and the dtype.
struct AutocastState {
  at::DeviceType device = at::kCPU;
  bool enabled = false;
  at::ScalarType dtype = at::kFloat;

  static AutocastState current(at::DeviceType device) {
    return {device, at::autocast::is_autocast_enabled(device), at::autocast::get_autocast_dtype(device)};
  }
};

/// Sets autocast on the calling thread and restores it at the end of the scope.
class AutocastScope {
 public:
  /// @param caching keeps converted weights until the outermost such scope ends (Python: `torch.autocast`).
  ///   Use false for a part of a graph that runs in a backward pass or in another thread, because converted
  ///   weights belong to one graph only.
  explicit AutocastScope(const AutocastState& state, bool caching = false)
      : before_(AutocastState::current(state.device)),
        was_caching_(at::autocast::is_autocast_cache_enabled()),
        nests_(caching) {
    set(state, caching && was_caching_);
    if (nests_) at::autocast::increment_nesting();
  }
  ~AutocastScope() {
    if (nests_ && at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    set(before_, was_caching_);
  }
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
  bool nests_;
};

}  // namespace internal
}  // namespace diffusers
