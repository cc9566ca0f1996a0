#include <atomic>
#include <cstdio>
#include <mutex>
#include <set>
#include <utility>

#include <diffusers/core/logging.h>

namespace diffusers {
namespace {

std::atomic<LogLevel> g_verbosity{LogLevel::kWarning};

struct SinkState {
  // Held while a sink runs, so that a sink is never called by two threads at once or after it was replaced.
  // It is recursive because a sink may log.
  std::recursive_mutex mutex;
  LogSink sink;
  std::set<std::string> warned;
};

SinkState& state() {
  static SinkState instance;
  return instance;
}

const char* level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    default:
      return "error";
  }
}

}  // namespace

void set_verbosity(LogLevel level) { g_verbosity = level; }
LogLevel get_verbosity() { return g_verbosity; }

LogSink set_log_sink(LogSink sink) {
  const std::lock_guard lock(state().mutex);
  return std::exchange(state().sink, std::move(sink));
}

void log_message(LogLevel level, std::string_view message) {
  if (level < g_verbosity.load() || level == LogLevel::kOff) return;
  const std::lock_guard lock(state().mutex);
  const LogSink sink = state().sink;  // it may replace itself
  if (sink) {
    sink(level, message);
  } else {
    std::fprintf(stderr, "diffusers %s: %.*s\n", level_name(level), static_cast<int>(message.size()),
                 message.data());
  }
}

void warn_once(const std::string& message) {
  {
    const std::lock_guard lock(state().mutex);
    if (!state().warned.insert(message).second) return;
  }
  log_message(LogLevel::kWarning, message);
}

}  // namespace diffusers
