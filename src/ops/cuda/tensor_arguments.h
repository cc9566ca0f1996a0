#pragma once

// What the calls of the CUDA kernels take from their tensors.

#include <cstdint>
#include <initializer_list>

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include "core/require.h"
#include "ops/cuda/element.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

inline Element element_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kHalf:
      return Element::kHalf;
    case at::kBFloat16:
      return Element::kBFloat16;
    default:
      return Element::kFloat;
  }
}

/// Returns the largest power of two, at most 16, that divides all addresses.
inline int64_t common_alignment(std::initializer_list<const void*> addresses) {
  uintptr_t bits = 16;
  for (const void* address : addresses) bits |= reinterpret_cast<uintptr_t>(address);
  return static_cast<int64_t>(bits & (~bits + 1));
}

/// @throws Error if a kernel could not be started
inline void check_launch(cudaError_t error, const char* operation) {
  require(error == cudaSuccess,
          "{}: the CUDA kernel could not be started: {}. DIFFUSERS_FUSED=0 runs it through LibTorch",
          operation, cudaGetErrorString(error));
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
