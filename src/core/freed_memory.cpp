#include "core/freed_memory.h"

#include <cstdlib>
#include <mutex>
#include <string_view>
#include <utility>

#include <diffusers/core/error.h>

#include <ATen/core/grad_mode.h>

#include "core/exact_allocator.h"
#include "core/require.h"

#if defined(__GLIBC__)
#include <c10/core/CPUAllocator.h>
#include <malloc.h>
#endif

namespace diffusers {
inline namespace internal {
namespace {

std::mutex g_freed_memory_mutex;
int g_freed_memory_scopes = 0;
bool g_must_return_memory = false;  // at the end of the last scope

constexpr int kLargestMapThreshold = 32 << 20;  // the largest that glibc accepts; it adapts itself up to it

#if defined(__GLIBC__)
constexpr int kKeptBytes = 1 << 30;                    // at the end of the heap
constexpr int kUsualBytes = 2 * kLargestMapThreshold;  // what glibc keeps after it has adapted itself

void return_free_pages() { malloc_trim(0); }

/// Replaces LibTorch's allocator, for the rest of the process: LibTorch reads the pointer to it without a
/// lock, so that it must not change whenever a model computes. An allocator that the program has set stays.
void install_allocator() {
  if (c10::GetCPUAllocator() == c10::GetDefaultCPUAllocator())
    c10::SetCPUAllocator(&ExactAllocator::instance());
}

void keep_freed_memory() {
  install_allocator();
  mallopt(M_MMAP_THRESHOLD, kLargestMapThreshold);
  mallopt(M_TRIM_THRESHOLD, kKeptBytes);
}

void stop_keeping_freed_memory() { mallopt(M_TRIM_THRESHOLD, kUsualBytes); }
#else
void return_free_pages() {}
void keep_freed_memory() {}
void stop_keeping_freed_memory() {}
#endif

void begin_scope() {
  const std::lock_guard<std::mutex> lock(g_freed_memory_mutex);
  if (g_freed_memory_scopes++ == 0) keep_freed_memory();
}

void end_scope(bool must_return_memory) {
  const std::lock_guard<std::mutex> lock(g_freed_memory_mutex);
  g_must_return_memory = g_must_return_memory || must_return_memory;
  if (--g_freed_memory_scopes > 0) return;
  stop_keeping_freed_memory();
  if (std::exchange(g_must_return_memory, false)) return_free_pages();
}

bool is_set(const char* variable) {
  const char* const value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

}  // namespace

bool keeps_freed_memory() {
  const char* const text = std::getenv("DIFFUSERS_KEEP_MEMORY");
  const std::string_view value = text == nullptr ? "" : text;
  require<ConfigError>(value.empty() || value == "0" || value == "1",
                       "DIFFUSERS_KEEP_MEMORY is \"{}\", expected \"0\" or \"1\"", value);
  return value != "0" && !is_set("MALLOC_TRIM_THRESHOLD_") && !is_set("MALLOC_MMAP_THRESHOLD_") &&
         !is_set("GLIBC_TUNABLES");
}

FreedMemoryScope::FreedMemoryScope() : is_active_(keeps_freed_memory()) {
  if (is_active_) begin_scope();
}
FreedMemoryScope::~FreedMemoryScope() {
  if (is_active_) end_scope(/*must_return_memory=*/true);
}

ForwardMemoryScope::ForwardMemoryScope(const at::Tensor& input)
    : is_active_(input.defined() && input.is_cpu() && !at::GradMode::is_enabled() && keeps_freed_memory()) {
  if (is_active_) begin_scope();
}
ForwardMemoryScope::~ForwardMemoryScope() {
  if (is_active_) end_scope(/*must_return_memory=*/false);
}

void make_room_for_blocks(int64_t largest_block) {
  if (largest_block <= kLargestMapThreshold) return;
  const std::lock_guard<std::mutex> lock(g_freed_memory_mutex);
  if (g_freed_memory_scopes > 0) return_free_pages();
}

}  // namespace internal
}  // namespace diffusers
