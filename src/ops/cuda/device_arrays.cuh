#pragma once

// Loads and stores of vectors, and sums over a block. For .cu files.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "ops/cuda/element.h"
#include "ops/cuda/host_device.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ inline void assign(float& to, float value) { to = value; }
__device__ inline void assign(__half& to, float value) { to = __float2half_rn(value); }
__device__ inline void assign(__nv_bfloat16& to, float value) { to = __float2bfloat16_rn(value); }

/// `kVector` elements that one instruction loads or stores. The address must be a multiple of the size.
template <class T, int kVector>
struct alignas(sizeof(T) * kVector) Pack {
  T values[kVector];
};

template <class T, int kVector>
__device__ void load_vector(const T* from, float (&to)[kVector]) {
  const Pack<T, kVector> pack = *reinterpret_cast<const Pack<T, kVector>*>(from);
  for (int i = 0; i < kVector; ++i) to[i] = to_float(pack.values[i]);
}

template <class T, int kVector>
__device__ void store_vector(T* to, const float (&from)[kVector]) {
  Pack<T, kVector> pack;
  for (int i = 0; i < kVector; ++i) assign(pack.values[i], from[i]);
  *reinterpret_cast<Pack<T, kVector>*>(to) = pack;
}

/// Returns the combination of `value` over the threads of the block, in every thread and always in the same
/// order. All threads must call it. The block consists of whole warps.
/// @param value a struct of floats
template <class T, class Combine>
__device__ T combine_over_block(T value, const Combine& combine) {
  constexpr int kFloats = sizeof(T) / sizeof(float);
  static_assert(sizeof(T) == kFloats * sizeof(float), "a struct of floats");
  __shared__ float partial[kMostWarps][kFloats];
  const auto floats = [](T& of) { return reinterpret_cast<float*>(&of); };
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    T other;
    for (int i = 0; i < kFloats; ++i)
      floats(other)[i] = __shfl_xor_sync(0xffffffffU, floats(value)[i], offset);
    value = combine(value, other);
  }
  // Wait until all threads have read the results of the previous call.
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0)
    for (int i = 0; i < kFloats; ++i) partial[threadIdx.x / kWarpSize][i] = floats(value)[i];
  __syncthreads();
  T result;
  for (unsigned int warp = 0; warp < blockDim.x / kWarpSize; ++warp) {
    T other;
    for (int i = 0; i < kFloats; ++i) floats(other)[i] = partial[warp][i];
    result = warp == 0 ? other : combine(result, other);
  }
  return result;
}

constexpr int64_t kMostBlocks = int64_t{1} << 30;

inline unsigned int grid_size(int64_t blocks) {
  return static_cast<unsigned int>(most(least(blocks, kMostBlocks), 1));
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
