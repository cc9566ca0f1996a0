#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

namespace diffusers {
inline namespace internal {

/// While it lives, the first SIGINT, SIGTERM or SIGUSR1 is only noted; the same signal again ends the program
/// with the signal's default action.
///
/// Several may live at the same time, nested or in different threads: each sees every signal that comes while
/// it lives. The first one installs the handlers, and the last one to end restores those before.
class StopSignals {
 public:
  explicit StopSignals(bool enabled);
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals();

  /// The signal that was seen first. Thread-safe.
  std::optional<int> received() const;
  /// Stops noting signals. @return the signal that was seen first, those of the last moment included
  std::optional<int> end();

 private:
  bool enabled_;
  uint64_t arrivals_before_ = 0;
  mutable std::atomic<int> first_ = 0;
};

}  // namespace internal
}  // namespace diffusers
