#pragma once

// The host's memory, which a copy of a checkpoint must fit into.

#include <cstdint>
#include <optional>
#include <string>

namespace diffusers {
inline namespace internal {

/// Memory of the host and of this process, in bytes.
struct HostMemory {
  int64_t available = 0;      ///< free without swapping
  int64_t resident = 0;       ///< of this process
  int64_t peak_resident = 0;  ///< the most that this process had
};

/// Reads the memory of the host.
/// @param meminfo, status files in the format of Linux
/// @return none if a file does not exist or a line is missing
std::optional<HostMemory> read_host_memory(const std::string& meminfo = "/proc/meminfo",
                                           const std::string& status = "/proc/self/status");

/// Returns true if there is room for a copy, and for what the process needs again to reach its peak.
/// @param bytes size of the copy
/// @param memory none: it is not known, and assumed to be enough
bool has_room_for_copy(int64_t bytes, const std::optional<HostMemory>& memory);

/// Replaces the memory that trainings see, until the scope ends. For tests.
class FakeHostMemory {
 public:
  explicit FakeHostMemory(const HostMemory& memory);
  FakeHostMemory(const FakeHostMemory&) = delete;
  FakeHostMemory& operator=(const FakeHostMemory&) = delete;
  ~FakeHostMemory();
};

/// Returns the memory of the host, or that of a FakeHostMemory.
std::optional<HostMemory> current_host_memory();

}  // namespace internal
}  // namespace diffusers
