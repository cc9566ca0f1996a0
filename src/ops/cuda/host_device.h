#pragma once

// Functions that run on the host and on a CUDA device. The headers with the arithmetic of the kernels include
// neither CUDA nor LibTorch, so that tests on the CPU run the same functions.

#include <cstdint>

#if defined(__CUDACC__)
#define DIFFUSERS_HOST_DEVICE __host__ __device__
// A template calls a function object of the caller, which is for the device only in a kernel.
#define DIFFUSERS_ANY_CALLER _Pragma("nv_exec_check_disable")
#else
#define DIFFUSERS_HOST_DEVICE
#define DIFFUSERS_ANY_CALLER
#endif

namespace diffusers {
inline namespace internal {
namespace cuda {

constexpr int kWarpSize = 32;
constexpr int kMostThreads = 256;  // threads of a block
constexpr int kMostWarps = kMostThreads / kWarpSize;

DIFFUSERS_HOST_DEVICE inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
DIFFUSERS_HOST_DEVICE inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
DIFFUSERS_HOST_DEVICE inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
