#pragma once

#include <c10/core/Allocator.h>

namespace diffusers {
inline namespace internal {

/// Allocates the memory of tensors on the CPU with `std::malloc`, aligned to 64 bytes as LibTorch aligns it.
///
/// LibTorch allocates with `posix_memalign`. In glibc that function searches for a block that is larger than
/// the wanted one, and splits it. A freed block then never fits the next tensor of the same size, so that
/// the activations of a training step take more memory than they have bytes. Here each tensor of a size asks
/// for blocks of one size.
///
/// Blocks of 2 MiB and more ask the system for huge pages (`madvise`), which are cleared in one page fault
/// each. The same memory in small pages takes 512.
class ExactAllocator final : public c10::Allocator {
 public:
  /// Returns the one object, which lives until the process ends.
  static ExactAllocator& instance();

  /// @param bytes size
  /// @return the memory; null for 0 bytes
  /// @throws c10::Error of LibTorch's allocator if there is not enough memory
  c10::DataPtr allocate(size_t bytes) override;

  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void* to, const void* from, size_t bytes) const override;
};

}  // namespace internal
}  // namespace diffusers
