#include "ops/cuda/adamw.h"
#include "ops/cuda/device_arrays.cuh"

namespace diffusers {
inline namespace internal {
namespace cuda {
namespace {

struct MergeNorms {
  __device__ GradientNorm operator()(const GradientNorm& a, const GradientNorm& b) const {
    return merge(a, b);
  }
};

constexpr int kVector = 4;

/// True if all addresses are multiples of 16 bytes, as the chunks of a tensor then are too.
__device__ bool is_aligned(const void* a, const void* b, const void* c, const void* d, const void* e) {
  const auto bits = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) |
                    reinterpret_cast<uintptr_t>(c) | reinterpret_cast<uintptr_t>(d) |
                    reinterpret_cast<uintptr_t>(e);
  return bits % 16 == 0;
}

__global__ void __launch_bounds__(kMostThreads)
    chunk_norms(const __grid_constant__ TensorTable table, const float* scale, GradientNorm* partial) {
  const float inverse = scale == nullptr ? 1.0F : 1.0F / *scale;
  for (int64_t number = blockIdx.x; number < table.chunks; number += gridDim.x) {
    const TensorChunk chunk = chunk_of(table, number);
    const float* grad = table.grad[chunk.tensor];
    GradientNorm own;
    if (is_aligned(grad, nullptr, nullptr, nullptr, nullptr)) {
      const int64_t whole = chunk.end - (chunk.end - chunk.begin) % kVector;
      for (int64_t i = chunk.begin + int64_t{threadIdx.x} * kVector; i < whole;
           i += int64_t{blockDim.x} * kVector) {
        float values[kVector];
        load_vector(grad + i, values);
        for (int k = 0; k < kVector; ++k) own = merge(own, gradient_norm(values[k], inverse));
      }
      for (int64_t i = whole + threadIdx.x; i < chunk.end; i += blockDim.x)
        own = merge(own, gradient_norm(grad[i], inverse));
    } else {
      for (int64_t i = chunk.begin + threadIdx.x; i < chunk.end; i += blockDim.x)
        own = merge(own, gradient_norm(grad[i], inverse));
    }
    const GradientNorm sum = combine_over_block(own, MergeNorms());
    if (threadIdx.x == 0) partial[number] = sum;
  }
}

__global__ void __launch_bounds__(kMostThreads)
    total_norm(const GradientNorm* partial, int64_t count, const float* scale, float max_norm,
               GradientOutcome* outcome) {
  GradientNorm own;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) own = merge(own, partial[i]);
  const GradientNorm sum = combine_over_block(own, MergeNorms());
  if (threadIdx.x != 0) return;
  outcome->norm = sqrtf(sum.squares);
  outcome->nonfinite = sum.nonfinite;
  outcome->grad_factor = clip_factor(outcome->norm, max_norm, scale == nullptr ? 1.0F : 1.0F / *scale);
}

/// Each thread computes the factors of one tensor and counts its step.
__global__ void __launch_bounds__(kMostThreads)
    tensor_factors(const __grid_constant__ TensorTable table, AdamWOptions options,
                   const double* learning_rate, const GradientOutcome* outcome, const float* skip,
                   AdamWFactors* factors) {
  const int tensor = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (tensor >= table.count) return;
  const double rate = learning_rate == nullptr ? options.learning_rate : *learning_rate;
  const float step = *table.step[tensor] + 1;
  factors[tensor] = adamw_factors(options, rate, outcome->grad_factor, step);
  if (*skip == 0) *table.step[tensor] = step;
}

template <int kWidth>
__device__ void step_elements(const TensorTable& table, int tensor, int64_t i, const AdamWFactors& factors,
                              bool is_skipped) {
  float params[kWidth];
  load_vector(table.param[tensor] + i, params);
  if (!is_skipped) {
    float grads[kWidth];
    float first[kWidth];
    float second[kWidth];
    load_vector(table.grad[tensor] + i, grads);
    load_vector(table.exp_avg[tensor] + i, first);
    load_vector(table.exp_avg_sq[tensor] + i, second);
    for (int k = 0; k < kWidth; ++k) {
      const AdamWElement element = adamw(factors, {params[k], first[k], second[k]}, grads[k]);
      params[k] = element.param;
      first[k] = element.exp_avg;
      second[k] = element.exp_avg_sq;
    }
    store_vector(table.param[tensor] + i, params);
    store_vector(table.exp_avg[tensor] + i, first);
    store_vector(table.exp_avg_sq[tensor] + i, second);
  }
  if (table.average[tensor] == nullptr) return;
  float averages[kWidth];
  load_vector(table.average[tensor] + i, averages);
  for (int k = 0; k < kWidth; ++k) averages[k] = interpolated(averages[k], params[k], factors.average_weight);
  store_vector(table.average[tensor] + i, averages);
}

__global__ void __launch_bounds__(kMostThreads)
    step_chunks(const __grid_constant__ TensorTable table, const AdamWFactors* all_factors,
                const float* skip) {
  const bool is_skipped = *skip != 0;
  for (int64_t number = blockIdx.x; number < table.chunks; number += gridDim.x) {
    const TensorChunk chunk = chunk_of(table, number);
    const int tensor = chunk.tensor;
    const AdamWFactors factors = all_factors[tensor];
    int64_t rest = chunk.begin;
    if (is_aligned(table.param[tensor], table.grad[tensor], table.exp_avg[tensor], table.exp_avg_sq[tensor],
                   table.average[tensor])) {
      rest = chunk.end - (chunk.end - chunk.begin) % kVector;
      for (int64_t i = chunk.begin + int64_t{threadIdx.x} * kVector; i < rest;
           i += int64_t{blockDim.x} * kVector)
        step_elements<kVector>(table, tensor, i, factors, is_skipped);
    }
    for (int64_t i = rest + threadIdx.x; i < chunk.end; i += blockDim.x)
      step_elements<1>(table, tensor, i, factors, is_skipped);
  }
}

}  // namespace

cudaError_t gradient_norms(const TensorTable& table, const float* scale, GradientNorm* partial,
                           cudaStream_t stream) {
  chunk_norms<<<grid_size(table.chunks), kMostThreads, 0, stream>>>(table, scale, partial);
  return cudaGetLastError();
}

cudaError_t finish_gradient_norm(const GradientNorm* partial, int64_t count, const float* scale,
                                 float max_norm, GradientOutcome* outcome, cudaStream_t stream) {
  total_norm<<<1, kMostThreads, 0, stream>>>(partial, count, scale, max_norm, outcome);
  return cudaGetLastError();
}

cudaError_t adamw_step(const TensorTable& table, const AdamWOptions& options, const double* learning_rate,
                       const GradientOutcome* outcome, const float* skip, AdamWFactors* factors,
                       cudaStream_t stream) {
  tensor_factors<<<grid_size(divide_up(table.count, kMostThreads)), kMostThreads, 0, stream>>>(
      table, options, learning_rate, outcome, skip, factors);
  step_chunks<<<grid_size(table.chunks), kMostThreads, 0, stream>>>(table, factors, skip);
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
