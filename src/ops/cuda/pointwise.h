#pragma once

// The CUDA kernels of GEGLU and of the timestep embedding.

#include <cuda_runtime_api.h>

#include "ops/cuda/element.h"
#include "ops/cuda/pointwise_math.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

/// Returns the number of elements of a load: 16 bytes, if they divide the features and the addresses, else 1.
/// @param bytes largest power of two that divides the addresses of all arrays
inline int geglu_vector(Element element, const GegluShape& shape, int64_t bytes) {
  const int vector = 16 / element_size(element);
  return shape.features % vector == 0 && bytes % 16 == 0 ? vector : 1;
}

/// @return error code of the launch
cudaError_t geglu_forward(Element element, const GegluShape& shape, int vector, const void* x, void* y,
                          cudaStream_t stream);

/// @return error code of the launch
cudaError_t geglu_backward(Element element, const GegluShape& shape, int vector, const void* grad_y,
                           const void* x, void* grad_x, cudaStream_t stream);

/// @param timesteps `[count]`
/// @param y `[count, dim]`
/// @return error code of the launch
cudaError_t timestep_embedding(const TimestepEmbeddingShape& shape, const float* timesteps, float* y,
                               cudaStream_t stream);

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
