#include "core/exact_allocator.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

namespace diffusers {
inline namespace internal {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr uintptr_t kLargestPage = uintptr_t{64} << 10;  // of the systems that LibTorch supports

/// Asks for huge pages. Without them the block is as good, so that errors do not matter.
void use_huge_pages(uintptr_t address, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t begin = (address + kLargestPage - 1) / kLargestPage * kLargestPage;
  const uintptr_t end = (address + bytes) / kLargestPage * kLargestPage;
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // NOLINT(performance-no-int-to-ptr)
#endif
}

/// The block begins before the data; its address stands in the bytes before the data.
void free_exact_block(void* data) {
  if (data == nullptr) return;
  c10::profiledCPUMemoryReporter().Delete(data);
  void* block = nullptr;
  std::memcpy(&block, static_cast<char*>(data) - sizeof(block), sizeof(block));
  std::free(block);  // NOLINT(cppcoreguidelines-no-malloc)
}

}  // namespace

ExactAllocator& ExactAllocator::instance() {
  static auto* const allocator = new ExactAllocator;
  return *allocator;
}

c10::DataPtr ExactAllocator::allocate(size_t bytes) {
  const c10::Device cpu(c10::DeviceType::CPU);
  if (bytes == 0) return {nullptr, nullptr, &free_exact_block, cpu};
  const bool fits = bytes <= std::numeric_limits<size_t>::max() - kAlignment;
  void* const block =
      fits ? std::malloc(bytes + kAlignment) : nullptr;  // NOLINT(cppcoreguidelines-no-malloc)
  if (block == nullptr) return c10::GetDefaultCPUAllocator()->allocate(bytes);  // its message names the size
  if (bytes >= kHugePage) use_huge_pages(reinterpret_cast<uintptr_t>(block), bytes);
  // malloc aligns to 16 bytes at least, so that the address of the block fits before the data.
  const auto address = reinterpret_cast<uintptr_t>(block);
  char* const data = static_cast<char*>(block) + (kAlignment - address % kAlignment);
  std::memcpy(data - sizeof(block), &block, sizeof(block));
  c10::profiledCPUMemoryReporter().New(data, bytes);
  return {data, data, &free_exact_block, cpu};
}

c10::DeleterFnPtr ExactAllocator::raw_deleter() const { return &free_exact_block; }

void ExactAllocator::copy_data(void* to, const void* from, size_t bytes) const {
  default_copy_data(to, from, bytes);
}

}  // namespace internal
}  // namespace diffusers
