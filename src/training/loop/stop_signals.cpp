#include "training/loop/stop_signals.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <mutex>

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::array<int, 3> kStopSignals{SIGINT, SIGTERM, SIGUSR1};

// Written by the handler, which may run in any thread.
// The number of signals that came so far, times 256, plus the last of them.
std::atomic<uint64_t> g_arrivals{0};
// True if the next signal is noted. Otherwise it ends the program.
std::array<std::atomic<bool>, kStopSignals.size()> g_is_noted{};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

struct Handlers {
  std::mutex mutex;
  int users = 0;
  std::array<struct sigaction, kStopSignals.size()> previous;  // of the time before the first user
};

Handlers& handlers() {
  static Handlers instance;
  return instance;
}

extern "C" void note_stop_signal(int number) {
  const int error = errno;
  bool is_noted = false;
  for (std::size_t i = 0; i < kStopSignals.size(); ++i)
    if (kStopSignals[i] == number) is_noted = g_is_noted[i].exchange(false);
  if (is_noted) {
    uint64_t before = g_arrivals.load();
    while (
        !g_arrivals.compare_exchange_weak(before, ((before >> 8) + 1) << 8 | static_cast<unsigned>(number))) {
    }
  } else {
    ::signal(number, SIG_DFL);
    ::raise(number);  // comes through when the handler returns
  }
  errno = error;
}

}  // namespace

StopSignals::StopSignals(bool enabled) : enabled_(enabled) {
  if (!enabled_) return;
  arrivals_before_ = g_arrivals.load();
  const std::lock_guard lock(handlers().mutex);
  for (std::atomic<bool>& is_noted : g_is_noted) is_noted = true;
  if (handlers().users++ > 0) return;
  struct sigaction action {};
  action.sa_handler = note_stop_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (std::size_t i = 0; i < kStopSignals.size(); ++i)
    ::sigaction(kStopSignals[i], &action, &handlers().previous[i]);
}

StopSignals::~StopSignals() { end(); }

std::optional<int> StopSignals::received() const {
  if (first_ == 0 && enabled_) {
    const uint64_t arrivals = g_arrivals.load();
    int none = 0;
    if (arrivals != arrivals_before_) first_.compare_exchange_strong(none, static_cast<int>(arrivals & 255U));
  }
  return first_ == 0 ? std::nullopt : std::optional<int>(first_.load());
}

std::optional<int> StopSignals::end() {
  if (!enabled_) return received();
  {
    const std::lock_guard lock(handlers().mutex);
    if (--handlers().users == 0) {
      for (std::size_t i = 0; i < kStopSignals.size(); ++i) {
        struct sigaction current {};
        ::sigaction(kStopSignals[i], nullptr, &current);
        // A handler that the program installed meanwhile is left alone.
        if ((current.sa_flags & SA_SIGINFO) == 0 && current.sa_handler == note_stop_signal)
          ::sigaction(kStopSignals[i], &handlers().previous[i], nullptr);
      }
    }
  }
  received();
  enabled_ = false;
  return received();
}

}  // namespace internal
}  // namespace diffusers
