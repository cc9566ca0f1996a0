#include "training/checkpoint/host_memory.h"

#include "io/memory_line.h"

namespace diffusers {
inline namespace internal {
namespace {

std::optional<HostMemory> fake_host_memory;

}  // namespace

std::optional<HostMemory> read_host_memory(const std::string& meminfo, const std::string& status) {
  const auto available = read_memory_line(meminfo, "MemAvailable");
  const auto resident = read_memory_line(status, "VmRSS");
  const auto peak = read_memory_line(status, "VmHWM");
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
