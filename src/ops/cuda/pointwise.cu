#include "ops/cuda/device_arrays.cuh"
#include "ops/cuda/pointwise.h"

namespace diffusers {
inline namespace internal {
namespace cuda {
namespace {

/// Calls visit(i) for each `kStep`-th number below `size`, spread over the threads of all blocks.
template <int kStep, class Visit>
__device__ void for_each_index(int64_t size, const Visit& visit) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x * kStep;
  for (int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kStep; i < size; i += step) visit(i);
}

template <class T, int kVector>
__global__ void __launch_bounds__(kMostThreads) geglu_output(GegluShape shape, const T* x, T* y) {
  for_each_index<kVector>(shape.size(), [&](int64_t i) {
    const T* from = x + shape.value_index(i);
    float values[kVector];
    float gates[kVector];
    load_vector(from, values);
    load_vector(from + shape.features, gates);
    for (int k = 0; k < kVector; ++k) values[k] = geglu(values[k], gates[k]);
    store_vector(y + i, values);
  });
}

template <class T, int kVector>
__global__ void __launch_bounds__(kMostThreads)
    geglu_input(GegluShape shape, const T* grad_y, const T* x, T* grad_x) {
  for_each_index<kVector>(shape.size(), [&](int64_t i) {
    const int64_t at = shape.value_index(i);
    float grads[kVector];
    float values[kVector];
    float gates[kVector];
    load_vector(grad_y + i, grads);
    load_vector(x + at, values);
    load_vector(x + at + shape.features, gates);
    for (int k = 0; k < kVector; ++k) {
      const GegluGradients gradients = geglu_gradients(grads[k], values[k], gates[k]);
      values[k] = gradients.value;
      gates[k] = gradients.gate;
    }
    store_vector(grad_x + at, values);
    store_vector(grad_x + at + shape.features, gates);
  });
}

__global__ void __launch_bounds__(kMostThreads)
    embedding_output(TimestepEmbeddingShape shape, const float* timesteps, float* y) {
  for_each_index<1>(shape.count * shape.dim, [&](int64_t i) {
    y[i] = timestep_embedding(shape, timesteps[i / shape.dim], i % shape.dim);
  });
}

unsigned int blocks_for(int64_t elements, int vector) {
  return grid_size(divide_up(elements, int64_t{kMostThreads} * vector));
}

template <class T, int kVector>
void launch_forward(const GegluShape& shape, const void* x, void* y, cudaStream_t stream) {
  geglu_output<T, kVector><<<blocks_for(shape.size(), kVector), kMostThreads, 0, stream>>>(
      shape, static_cast<const T*>(x), static_cast<T*>(y));
}

template <class T, int kVector>
void launch_backward(const GegluShape& shape, const void* grad_y, const void* x, void* grad_x,
                     cudaStream_t stream) {
  geglu_input<T, kVector><<<blocks_for(shape.size(), kVector), kMostThreads, 0, stream>>>(
      shape, static_cast<const T*>(grad_y), static_cast<const T*>(x), static_cast<T*>(grad_x));
}

template <class T>
cudaError_t forward(const GegluShape& shape, int vector, const void* x, void* y, cudaStream_t stream) {
  if (vector == 1) {
    launch_forward<T, 1>(shape, x, y, stream);
  } else {
    launch_forward<T, 16 / sizeof(T)>(shape, x, y, stream);
  }
  return cudaGetLastError();
}

template <class T>
cudaError_t backward(const GegluShape& shape, int vector, const void* grad_y, const void* x, void* grad_x,
                     cudaStream_t stream) {
  if (vector == 1) {
    launch_backward<T, 1>(shape, grad_y, x, grad_x, stream);
  } else {
    launch_backward<T, 16 / sizeof(T)>(shape, grad_y, x, grad_x, stream);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t geglu_forward(Element element, const GegluShape& shape, int vector, const void* x, void* y,
                          cudaStream_t stream) {
  switch (element) {
    case Element::kFloat:
      return forward<float>(shape, vector, x, y, stream);
    case Element::kHalf:
      return forward<__half>(shape, vector, x, y, stream);
    case Element::kBFloat16:
      return forward<__nv_bfloat16>(shape, vector, x, y, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t geglu_backward(Element element, const GegluShape& shape, int vector, const void* grad_y,
                           const void* x, void* grad_x, cudaStream_t stream) {
  switch (element) {
    case Element::kFloat:
      return backward<float>(shape, vector, grad_y, x, grad_x, stream);
    case Element::kHalf:
      return backward<__half>(shape, vector, grad_y, x, grad_x, stream);
    case Element::kBFloat16:
      return backward<__nv_bfloat16>(shape, vector, grad_y, x, grad_x, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t timestep_embedding(const TimestepEmbeddingShape& shape, const float* timesteps, float* y,
                               cudaStream_t stream) {
  embedding_output<<<blocks_for(shape.count * shape.dim, 1), kMostThreads, 0, stream>>>(shape, timesteps, y);
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
