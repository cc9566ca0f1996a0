#include "training/stop_signals.h"

#include <array>
#include <csignal>

namespace diffusers {
namespace {

constexpr std::array<int, 3> kStopSignals{SIGINT, SIGTERM, SIGUSR1};
volatile std::sig_atomic_t g_received_signal = 0;
std::array<struct sigaction, kStopSignals.size()> g_previous_actions;

extern "C" void note_stop_signal(int number) { g_received_signal = number; }

}  // namespace

StopSignals::StopSignals(bool enabled) : enabled_(enabled) {
  if (!enabled_) return;
  g_received_signal = 0;
  struct sigaction action {};
  action.sa_handler = note_stop_signal;
  sigemptyset(&action.sa_mask);
  // Back to the default after the first one, so that an impatient second one is obeyed at once.
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  for (std::size_t i = 0; i < kStopSignals.size(); ++i)
    ::sigaction(kStopSignals[i], &action, &g_previous_actions[i]);
}

StopSignals::~StopSignals() {
  if (!enabled_) return;
  for (std::size_t i = 0; i < kStopSignals.size(); ++i)
    ::sigaction(kStopSignals[i], &g_previous_actions[i], nullptr);
}

std::optional<int> StopSignals::received() const {
  if (!enabled_ || g_received_signal == 0) return std::nullopt;
  return static_cast<int>(g_received_signal);
}

}  // namespace diffusers
