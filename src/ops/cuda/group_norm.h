#pragma once

// The CUDA kernels of group norm with and without SiLU, with raw pointers, sizes and a stream, so that the
// .cu files need no LibTorch header. They use no atomics, so results are deterministic.

#include <cstdint>

#include <cuda_runtime_api.h>

#include "ops/cuda/element.h"
#include "ops/cuda/group_norm_math.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

/// Arguments of both directions.
struct GroupNormKernel {
  Element element = Element::kFloat;
  Layout layout = Layout::kPlanar;
  GroupNormShape shape = {};
  int vector = 1;  ///< elements of a load; see `group_norm_vector`
  bool silu = false;
  bool is_per_image = false;  ///< weight and bias are `[batch, channels]`, else `[channels]`
  float eps = 0;
  const void* x = nullptr;  ///< `[batch, channels, spatial]`, in the order of `layout`
  const float* weight = nullptr;
  const float* bias = nullptr;
  float* mean = nullptr;     ///< `[batch, groups]`
  float* rstd = nullptr;     ///< likewise
  float* scratch = nullptr;  ///< `group_norm_scratch` elements
  cudaStream_t stream = nullptr;
};

/// Returns the largest number of elements of a load, a power of two of at most 16 bytes, that divides what
/// belongs to one channel (planar) or one position (channels-last).
/// @param bytes largest power of two that divides the addresses of all arrays of elements
inline int group_norm_vector(Element element, Layout layout, const GroupNormShape& shape, int64_t bytes) {
  const int64_t run = layout == Layout::kPlanar ? shape.spatial : shape.channels();
  for (int vector = 16 / element_size(element); vector > 1; vector /= 2)
    if (vector != 2 && run % vector == 0 && bytes % (vector * element_size(element)) == 0) return vector;
  return 1;
}

/// Returns the size of `scratch` for both directions, in float32 elements.
inline int64_t group_norm_scratch(Layout layout, const GroupNormShape& shape, int vector) {
  const WorkSplit forward = forward_split(layout, shape, vector);
  const WorkSplit backward = backward_split(layout, shape, vector);
  const int64_t per_channel = shape.batch * shape.channels();
  const int64_t moments = layout == Layout::kPlanar ? forward.blocks() : forward.splits * per_channel;
  const int64_t sums = backward.splits * per_channel;
  // Backward: the partial sums, those of each channel, the means of each group.
  return 2 * most(moments, sums + per_channel + shape.batch * shape.groups);
}

/// Computes y = group_norm(x) or its SiLU, `mean` and `rstd`.
/// @return error code of the launch
cudaError_t group_norm_forward(const GroupNormKernel& call, void* y);

/// Computes the gradients.
/// @param grad_weight `[channels]`, or `[batch, channels]` for `is_per_image`
/// @return error code of the launch
cudaError_t group_norm_backward(const GroupNormKernel& call, const void* grad_y, void* grad_x,
                                float* grad_weight, float* grad_bias);

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
