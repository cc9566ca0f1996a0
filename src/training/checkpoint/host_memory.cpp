#include "training/checkpoint/host_memory.h"

#include <fstream>
#include <sstream>

namespace diffusers {
inline namespace internal {
namespace {

std::optional<HostMemory> fake_host_memory;

/// Returns a value in bytes of a line such as "VmRSS:   1234 kB".
std::optional<int64_t> memory_line(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key + ":")) continue;
    std::istringstream value(line.substr(key.size() + 1));
    int64_t kibibytes = 0;
    if (value >> kibibytes) return 1024 * kibibytes;
    break;
  }
  return std::nullopt;
}

}  // namespace

std::optional<HostMemory> read_host_memory(const std::string& meminfo, const std::string& status) {
  const auto available = memory_line(meminfo, "MemAvailable");
  const auto resident = memory_line(status, "VmRSS");
  const auto peak = memory_line(status, "VmHWM");
  if (!available || !resident || !peak) return std::nullopt;
  return HostMemory{*available, *resident, *peak};
}

bool has_room_for_copy(int64_t bytes, const std::optional<HostMemory>& memory) {
  return !memory || bytes + memory->peak_resident - memory->resident <= memory->available;
}

FakeHostMemory::FakeHostMemory(const HostMemory& memory) { fake_host_memory = memory; }
FakeHostMemory::~FakeHostMemory() { fake_host_memory.reset(); }

std::optional<HostMemory> current_host_memory() {
  return fake_host_memory ? fake_host_memory : read_host_memory();
}

}  // namespace internal
}  // namespace diffusers
