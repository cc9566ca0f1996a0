#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace diffusers {

/// Severity of a message. Messages below the level of `set_verbosity` are dropped.
enum class LogLevel {
  kDebug,    ///< Details for debugging.
  kInfo,     ///< Normal events.
  kWarning,  ///< Events that may be mistakes.
  kError,    ///< Failures that no exception reports.
  kOff,      ///< No messages: `set_verbosity(LogLevel::kOff)` drops all of them.
};

/// Function that receives the messages at or above the level of `set_verbosity`.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Sets the lowest level that is reported. The default is kWarning, as in Python `diffusers`. Thread-safe.
/// @param level the lowest level that is reported
void set_verbosity(LogLevel level);
/// Returns the lowest level that is reported. Thread-safe.
/// @return the level
LogLevel get_verbosity();

/// Sets the function that receives the messages. The default writes them to standard error. Messages may come
/// from any thread, but the sink is never called by two threads at once. After this function returns, the
/// earlier sink is not called again.
/// @param sink new sink; an empty function restores the default
/// @return the earlier sink; empty if it was the default
LogSink set_log_sink(LogSink sink);

/// Reports a message if its level is at or above that of `set_verbosity`. Thread-safe.
/// @param level severity of the message
/// @param message the text, without a line break at the end
void log_message(LogLevel level, std::string_view message);

/// Reports a warning the first time that this exact message occurs in the process. Thread-safe.
/// @param message the text, without a line break at the end
void warn_once(const std::string& message);

}  // namespace diffusers
