#pragma once

#include <cstdint>

#include <ATen/core/TensorBody.h>

namespace diffusers {
inline namespace internal {

/// Returns true if freed memory may be kept: DIFFUSERS_KEEP_MEMORY is absent, empty or "1", and no variable
/// sets the thresholds of the C library (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_, GLIBC_TUNABLES).
/// Throws ConfigError if DIFFUSERS_KEEP_MEMORY has another value than 0 and 1.
bool keeps_freed_memory();

/// While an object exists, the C library (glibc) keeps freed memory for the next allocation. Otherwise it
/// would return the memory of the activations to the system after each step and clear new pages in the next
/// step. When the last object ends, the free memory is returned. From the first object on, tensors on the CPU
/// come from `ExactAllocator`, unless the program has set an allocator of LibTorch. Objects may be nested and
/// used by several threads. The class does nothing with other C libraries, or if `keeps_freed_memory` is
/// false.
class FreedMemoryScope {
 public:
  FreedMemoryScope();
  FreedMemoryScope(const FreedMemoryScope&) = delete;
  FreedMemoryScope& operator=(const FreedMemoryScope&) = delete;
  ~FreedMemoryScope();

 private:
  bool is_active_;
};

/// The scope of a model's forward pass on the CPU: a `FreedMemoryScope` if the calling thread records no
/// gradients. Its end does not search the heap for free memory, which takes long in a program with a large
/// heap: from then on the C library returns free memory above 64 MiB at the end of the heap.
class ForwardMemoryScope {
 public:
  /// @param input of the model
  explicit ForwardMemoryScope(const at::Tensor& input);
  ForwardMemoryScope(const ForwardMemoryScope&) = delete;
  ForwardMemoryScope& operator=(const ForwardMemoryScope&) = delete;
  ~ForwardMemoryScope();

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
