#pragma once

// Measures the memory of CPU tensors in bytes.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

namespace diffusers::test {

/// Counts LibTorch's CPU allocations of all threads during its lifetime. Tensors that outlive it stay valid.
/// Tensors from before are not counted. Only one counter may exist at a time.
class AllocationCounter {
 public:
  AllocationCounter() : previous_(c10::GetCPUAllocator()) {
    restart_peak();
    c10::SetCPUAllocator(&allocator());
  }
  AllocationCounter(const AllocationCounter&) = delete;
  AllocationCounter& operator=(const AllocationCounter&) = delete;
  ~AllocationCounter() { c10::SetCPUAllocator(previous_); }

  /// Returns the number of allocated bytes that are not freed yet.
  int64_t live() const { return live_bytes; }
  /// Returns the maximum of allocated bytes since the last `restart_peak`.
  int64_t peak() const { return peak_bytes; }
  void restart_peak() { peak_bytes = live_bytes.load(); }

 private:
  /// Size of the header in front of each block, which holds the block's size. It keeps LibTorch's alignment.
  static constexpr std::size_t kHeader = 64;

  struct Allocator : c10::Allocator {
    c10::DataPtr allocate(std::size_t size) override {
      if (size == 0) return {nullptr, nullptr, &release, c10::DeviceType::CPU};
      const std::size_t rounded = (size + 2 * kHeader - 1) / kHeader * kHeader;
      auto* block = static_cast<char*>(std::aligned_alloc(kHeader, rounded));
      TORCH_CHECK(block != nullptr, "out of memory: ", size, " bytes");
      std::memcpy(block, &size, sizeof(size));
      const int64_t now = live_bytes += static_cast<int64_t>(size);
      for (int64_t peak = peak_bytes; now > peak && !peak_bytes.compare_exchange_weak(peak, now);) {
      }
      return {block + kHeader, block + kHeader, &release, c10::DeviceType::CPU};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void* to, const void* from, std::size_t count) const override {
      default_copy_data(to, from, count);
    }
  };

  static void release(void* data) {
    if (data == nullptr) return;
    char* block = static_cast<char*>(data) - kHeader;
    std::size_t size = 0;
    std::memcpy(&size, block, sizeof(size));
    live_bytes -= static_cast<int64_t>(size);
    std::free(block);
  }

  static Allocator& allocator() {
    static Allocator allocator;
    return allocator;
  }

  static inline std::atomic<int64_t> live_bytes = 0;
  static inline std::atomic<int64_t> peak_bytes = 0;
  c10::Allocator* previous_;
};

/// Memory of one forward and backward pass besides parameters and gradients, in bytes.
struct ActivationMemory {
  int64_t held = 0;  ///< at the end of the forward pass, kept for the backward pass
  int64_t peak = 0;  ///< maximum during both passes
  int64_t left = 0;  ///< after both passes: 0 unless memory is still in use
};

/// @param forward returns a scalar loss; all parameters must already have a gradient
template <class Forward>
ActivationMemory measure_activations(AllocationCounter& counter, const Forward& forward) {
  ActivationMemory memory;
  counter.restart_peak();
  const int64_t before = counter.live();
  {
    const at::Tensor loss = forward();
    memory.held = counter.live() - before;
    loss.backward();
  }
  memory.peak = counter.peak() - before;
  memory.left = counter.live() - before;
  return memory;
}

}  // namespace diffusers::test
