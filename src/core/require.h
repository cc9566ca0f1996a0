#pragma once

// Formatting for error and log messages. The header is private, so that no user's translation unit includes
// fmt.

#include <utility>

#include <diffusers/core/error.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace diffusers {
inline namespace internal {

/// Throws `Exception` with a formatted message.
template <class Exception = Error, class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Exception(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws `Exception` with a formatted message if `condition` is false.
template <class Exception = Error, class... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw Exception(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace internal
}  // namespace diffusers
