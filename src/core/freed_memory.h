#pragma once

#include <cstdint>

namespace diffusers {
inline namespace internal {

/// Returns true if freed memory may be kept: DIFFUSERS_KEEP_MEMORY is absent, empty or "1", and no variable
/// sets the thresholds of the C library (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_, GLIBC_TUNABLES).
/// Throws ConfigError if DIFFUSERS_KEEP_MEMORY has another value than 0 and 1.
bool keeps_freed_memory();

/// While an object exists, the C library (glibc) keeps freed memory for the next allocation. Otherwise it
/// would return the memory of the activations to the system after each step and clear new pages in the next
/// step. Tensors on the CPU come from `ExactAllocator`, unless the program has set an allocator of LibTorch.
/// When the last object ends, LibTorch's allocator is set again and the free memory is returned. Objects may
/// be nested and used by several threads. The class does nothing with other C libraries, or if
/// `keeps_freed_memory` is false.
class FreedMemoryScope {
 public:
  FreedMemoryScope();
  FreedMemoryScope(const FreedMemoryScope&) = delete;
  FreedMemoryScope& operator=(const FreedMemoryScope&) = delete;
  ~FreedMemoryScope();

 private:
  bool is_active_;
};

/// Returns the freed memory to the system before a computation with blocks above 32 MiB: the C library maps
/// such a block anew, so that it and the kept memory would add up. Does nothing for smaller blocks, and
/// without a FreedMemoryScope.
/// @param largest_block bytes of the largest block
void make_room_for_blocks(int64_t largest_block);

}  // namespace internal
}  // namespace diffusers
