#pragma once

// The CUDA kernels of group_norm_silu, with raw pointers, sizes and a stream, so that the .cu file needs no
// LibTorch header. They use no atomics, so results are deterministic.

#include <cstdint>

#include <cuda_runtime_api.h>

namespace diffusers {
inline namespace internal {
namespace cuda {

/// x is `[batch, groups * group_channels, spatial]`, contiguous.
struct GroupNormShape {
  int64_t batch = 0;
  int64_t groups = 0;
  int64_t group_channels = 0;
  int64_t spatial = 0;
};

/// Type of x, y and their gradients. All other arrays are float.
enum class Element { kFloat, kHalf, kBFloat16 };

/// `mean` and `rstd` `[batch * groups]` receive the statistics.
/// @return error code of the launch
cudaError_t group_norm_silu_forward(Element element, const GroupNormShape& shape, float eps, const void* x,
                                    const float* weight, const float* bias, void* y, float* mean, float* rstd,
                                    cudaStream_t stream);

/// `grad_weight` and `grad_bias` `[batch, channels]` receive the share of each image.
cudaError_t group_norm_silu_backward(Element element, const GroupNormShape& shape, const void* grad_y,
                                     const void* x, const float* weight, const float* bias, const float* mean,
                                     const float* rstd, void* grad_x, float* grad_weight, float* grad_bias,
                                     cudaStream_t stream);

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
