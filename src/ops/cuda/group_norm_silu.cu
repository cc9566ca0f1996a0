#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "ops/cuda/group_norm_silu.h"

namespace diffusers {
inline namespace internal {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kMostBlocks = 1 << 30;

__device__ float to_float(float value) { return value; }
__device__ float to_float(__half value) { return __half2float(value); }
__device__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ void assign(float& to, float value) { to = value; }
__device__ void assign(__half& to, float value) { to = __float2half_rn(value); }
__device__ void assign(__nv_bfloat16& to, float value) { to = __float2bfloat16_rn(value); }

/// Returns the sum of `value` over the threads of the block, in every thread. All threads must call it.
__device__ float block_sum(float value) {
  __shared__ float partial[kWarps];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffU, value, offset);
  // Wait until all threads have read the sums of the previous call.
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += partial[warp];
  return sum;
}

__device__ float sigmoid(float z) { return 1.0F / (1.0F + expf(-z)); }

/// Each block processes groups of single images, one after another.
template <class T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(GroupNormShape shape, float eps, const T* x, const float* weight, const float* bias, T* y,
                   float* mean, float* rstd) {
  const int64_t size = shape.group_channels * shape.spatial;
  for (int64_t item = blockIdx.x; item < shape.batch * shape.groups; item += gridDim.x) {
    const T* from = x + item * size;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < size; i += kThreads) sum += to_float(from[i]);
    const float center = block_sum(sum) / static_cast<float>(size);
    float squares = 0;
    for (int64_t i = threadIdx.x; i < size; i += kThreads) {
      const float difference = to_float(from[i]) - center;
      squares += difference * difference;
    }
    const float inverse = 1.0F / sqrtf(block_sum(squares) / static_cast<float>(size) + eps);
    if (threadIdx.x == 0) {
      mean[item] = center;
      rstd[item] = inverse;
    }
    const int64_t first_channel = item % shape.groups * shape.group_channels;
    for (int64_t i = threadIdx.x; i < size; i += kThreads) {
      const int64_t channel = first_channel + i / shape.spatial;
      const float z = (to_float(from[i]) - center) * inverse * weight[channel] + bias[channel];
      assign(y[item * size + i], z * sigmoid(z));
    }
  }
}

/// grad_y * silu'(z)
__device__ float silu_gradient(float grad_y, float z) {
  const float s = sigmoid(z);
  return grad_y * s * (1.0F + z * (1.0F - s));
}

/// Each block processes channels of single images, one after another: sum dz x_hat and sum dz.
template <class T>
__global__ void __launch_bounds__(kThreads)
    parameter_kernel(GroupNormShape shape, const T* grad_y, const T* x, const float* weight,
                     const float* bias, const float* mean, const float* rstd, float* grad_weight,
                     float* grad_bias) {
  const int64_t channels = shape.groups * shape.group_channels;
  for (int64_t item = blockIdx.x; item < shape.batch * channels; item += gridDim.x) {
    const int64_t channel = item % channels;
    const int64_t group = item / shape.group_channels;
    float sum_product = 0;
    float sum_grad = 0;
    for (int64_t i = threadIdx.x; i < shape.spatial; i += kThreads) {
      const float x_hat = (to_float(x[item * shape.spatial + i]) - mean[group]) * rstd[group];
      const float dz =
          silu_gradient(to_float(grad_y[item * shape.spatial + i]), x_hat * weight[channel] + bias[channel]);
      sum_product += dz * x_hat;
      sum_grad += dz;
    }
    const float product = block_sum(sum_product);
    const float grad = block_sum(sum_grad);
    if (threadIdx.x == 0) {
      grad_weight[item] = product;
      grad_bias[item] = grad;
    }
  }
}

/// Computes dx = rstd (w dz - mean(w dz) - x_hat mean(w dz x_hat)). The means over the group come from the
/// sums of its channels.
template <class T>
__global__ void __launch_bounds__(kThreads)
    input_kernel(GroupNormShape shape, const T* grad_y, const T* x, const float* weight, const float* bias,
                 const float* mean, const float* rstd, const float* grad_weight, const float* grad_bias,
                 T* grad_x) {
  const int64_t channels = shape.groups * shape.group_channels;
  const float size = static_cast<float>(shape.group_channels * shape.spatial);
  for (int64_t item = blockIdx.x; item < shape.batch * channels; item += gridDim.x) {
    const int64_t channel = item % channels;
    const int64_t group = item / shape.group_channels;
    float mean_grad = 0;
    float mean_product = 0;
    for (int64_t c = 0; c < shape.group_channels; ++c) {
      const float w = weight[channel - channel % shape.group_channels + c];
      mean_grad += w * grad_bias[group * shape.group_channels + c];
      mean_product += w * grad_weight[group * shape.group_channels + c];
    }
    mean_grad /= size;
    mean_product /= size;
    for (int64_t i = threadIdx.x; i < shape.spatial; i += kThreads) {
      const int64_t at = item * shape.spatial + i;
      const float x_hat = (to_float(x[at]) - mean[group]) * rstd[group];
      const float dz = silu_gradient(to_float(grad_y[at]), x_hat * weight[channel] + bias[channel]);
      assign(grad_x[at], rstd[group] * (weight[channel] * dz - mean_grad - x_hat * mean_product));
    }
  }
}

unsigned int blocks_for(int64_t items) {
  return static_cast<unsigned int>(items < kMostBlocks ? items : kMostBlocks);
}

template <class T>
cudaError_t launch_forward(const GroupNormShape& shape, float eps, const void* x, const float* weight,
                           const float* bias, void* y, float* mean, float* rstd, cudaStream_t stream) {
  forward_kernel<T><<<blocks_for(shape.batch * shape.groups), kThreads, 0, stream>>>(
      shape, eps, static_cast<const T*>(x), weight, bias, static_cast<T*>(y), mean, rstd);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_backward(const GroupNormShape& shape, const void* grad_y, const void* x,
                            const float* weight, const float* bias, const float* mean, const float* rstd,
                            void* grad_x, float* grad_weight, float* grad_bias, cudaStream_t stream) {
  const unsigned int blocks = blocks_for(shape.batch * shape.groups * shape.group_channels);
  parameter_kernel<T><<<blocks, kThreads, 0, stream>>>(shape, static_cast<const T*>(grad_y),
                                                       static_cast<const T*>(x), weight, bias, mean, rstd,
                                                       grad_weight, grad_bias);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  input_kernel<T><<<blocks, kThreads, 0, stream>>>(shape, static_cast<const T*>(grad_y),
                                                   static_cast<const T*>(x), weight, bias, mean, rstd,
                                                   grad_weight, grad_bias, static_cast<T*>(grad_x));
  return cudaGetLastError();
}

}  // namespace

cudaError_t group_norm_silu_forward(Element element, const GroupNormShape& shape, float eps, const void* x,
                                    const float* weight, const float* bias, void* y, float* mean, float* rstd,
                                    cudaStream_t stream) {
  switch (element) {
    case Element::kFloat:
      return launch_forward<float>(shape, eps, x, weight, bias, y, mean, rstd, stream);
    case Element::kHalf:
      return launch_forward<__half>(shape, eps, x, weight, bias, y, mean, rstd, stream);
    case Element::kBFloat16:
      return launch_forward<__nv_bfloat16>(shape, eps, x, weight, bias, y, mean, rstd, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t group_norm_silu_backward(Element element, const GroupNormShape& shape, const void* grad_y,
                                     const void* x, const float* weight, const float* bias, const float* mean,
                                     const float* rstd, void* grad_x, float* grad_weight, float* grad_bias,
                                     cudaStream_t stream) {
  switch (element) {
    case Element::kFloat:
      return launch_backward<float>(shape, grad_y, x, weight, bias, mean, rstd, grad_x, grad_weight,
                                    grad_bias, stream);
    case Element::kHalf:
      return launch_backward<__half>(shape, grad_y, x, weight, bias, mean, rstd, grad_x, grad_weight,
                                     grad_bias, stream);
    case Element::kBFloat16:
      return launch_backward<__nv_bfloat16>(shape, grad_y, x, weight, bias, mean, rstd, grad_x, grad_weight,
                                            grad_bias, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
