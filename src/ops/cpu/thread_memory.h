#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace diffusers {
inline namespace internal {
namespace cpu {

/// Memory that a thread keeps for its next operation, because new memory would cost as much as packing the
/// data.
class ThreadMemory {
 public:
  /// Returns memory for `size` floats at a multiple of 64 bytes. Its contents are lost with the next call.
  float* get(int64_t size) {
    if (size > size_) {
      size_ = 0;
      memory_.reset();
      memory_.reset(
          static_cast<float*>(::operator new(static_cast<std::size_t>(size) * sizeof(float), kLine)));
      size_ = size;
    }
    return memory_.get();
  }

 private:
  static constexpr std::align_val_t kLine{64};  // a cache line
  struct Free {
    void operator()(float* memory) const { ::operator delete(memory, kLine); }
  };

  std::unique_ptr<float, Free> memory_;
  int64_t size_ = 0;
};

/// Memory that the thread of a call shares with its helpers.
inline float* shared_memory(int64_t size) {
  static thread_local ThreadMemory memory;
  return memory.get(size);
}

/// Memory of one thread inside of a parallel loop.
inline float* own_memory(int64_t size) {
  static thread_local ThreadMemory memory;
  return memory.get(size);
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
