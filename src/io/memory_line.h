#pragma once

// The files in which Linux reports memory: /proc/meminfo and /proc/self/status.

#include <cstdint>
#include <optional>
#include <string>

namespace diffusers {
inline namespace internal {

/// Reads a line such as "VmRSS:   1234 kB".
/// @param path file with such lines
/// @param key text before the colon
/// @return the value in bytes; none if the file does not exist, or the line is missing or has no number
std::optional<int64_t> read_memory_line(const std::string& path, const std::string& key);

}  // namespace internal
}  // namespace diffusers
