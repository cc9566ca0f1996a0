#pragma once

#include <optional>

namespace diffusers {

/// While it lives, the first SIGINT, SIGTERM or SIGUSR1 only leaves its number here; the same one again ends
/// the program as ever.
class StopSignals {
 public:
  explicit StopSignals(bool enabled);
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals();

  std::optional<int> received() const;

 private:
  bool enabled_;
};

}  // namespace diffusers
