#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace diffusers {

/// How much a message matters. Messages below the level set with `set_verbosity` are dropped.
enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

/// Receives each message that passes the verbosity filter.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// The lowest level that is reported (default kWarning, as in Python `diffusers`).
void set_verbosity(LogLevel level);
LogLevel get_verbosity();

/// Replaces where messages go (default: standard error). An empty function restores the default. Messages may
/// come from any thread, but the sink is called by one at a time, and no more after this function has
/// returned.
/// @return the sink that was in force, empty if it was the default
LogSink set_log_sink(LogSink sink);

void log_message(LogLevel level, std::string_view message);

/// Reports a warning the first time that this exact message is seen in the process.
void warn_once(const std::string& message);

}  // namespace diffusers
