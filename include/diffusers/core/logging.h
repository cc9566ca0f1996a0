#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace diffusers {

/// Severity of a message. Messages below the level of `set_verbosity` are dropped.
enum class LogLevel {
  kDebug,    ///< details for the developers of a program
  kInfo,     ///< normal events
  kWarning,  ///< events that may be mistakes
  kError,    ///< failures that no exception reports
  kOff,      ///< above every message: `set_verbosity(LogLevel::kOff)` drops all of them
};

/// Function that receives the messages at or above the level of `set_verbosity`.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Sets the lowest level that is reported. The default is kWarning, as in Python `diffusers`. Thread-safe.
void set_verbosity(LogLevel level);
/// Returns the lowest level that is reported.
LogLevel get_verbosity();

/// Sets the function that receives the messages. The default writes them to standard error. Messages may come
/// from any thread, but never two at a time. After this function has returned, the earlier sink is not called
/// any more.
/// @param sink new sink; an empty function restores the default
/// @return the earlier sink; empty if it was the default
LogSink set_log_sink(LogSink sink);

/// Reports a message, if its level is at or above that of `set_verbosity`. Thread-safe.
void log_message(LogLevel level, std::string_view message);

/// Reports a warning, but only the first time that this exact message occurs in the process. Thread-safe.
void warn_once(const std::string& message);

}  // namespace diffusers
