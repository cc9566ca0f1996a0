#pragma once

// The arithmetic of the multi-tensor optimizer step: gradient unscaling, gradient clipping, AdamW or Adam,
// and EMA. Parameters, gradients, moments and averages are float32.

#include <cmath>

#include "ops/cuda/host_device.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

/// Elements that one block processes.
constexpr int64_t kChunk = 16384;
/// Tensors of one launch. The table of a launch is an argument of the kernel. CUDA 12.1 and later allow
/// 32,764 bytes of arguments.
constexpr int kMostTensors = 448;

/// The tensors of a launch.
struct TensorTable {
  int count = 0;
  int64_t chunks = 0;
  int first_chunk[kMostTensors];
  int64_t size[kMostTensors];
  float* param[kMostTensors];
  const float* grad[kMostTensors];
  float* exp_avg[kMostTensors];
  float* exp_avg_sq[kMostTensors];
  float* average[kMostTensors];  ///< null: no EMA
  float* step[kMostTensors];     ///< one number: the steps that were taken

  /// Adds a tensor of at least one element, whose pointers the caller sets.
  /// @return its index
  int add(int64_t elements) {
    first_chunk[count] = static_cast<int>(chunks);
    size[count] = elements;
    chunks += divide_up(elements, kChunk);
    return count++;
  }
  bool is_full() const { return count == kMostTensors; }
};
static_assert(sizeof(TensorTable) < 32000, "the argument of a kernel");

/// The part of a tensor that a block processes.
struct TensorChunk {
  int tensor = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

/// Returns chunk `number` of the table.
DIFFUSERS_HOST_DEVICE inline TensorChunk chunk_of(const TensorTable& table, int64_t number) {
  int low = 0;
  int high = table.count;  // the tensor is in [low, high)
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.first_chunk[middle] <= number) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int64_t begin = (number - table.first_chunk[low]) * kChunk;
  return {low, begin, least(begin + kChunk, table.size[low])};
}

/// Sum of squares, and whether a number is not finite (1 or 0).
struct GradientNorm {
  float squares = 0;
  float nonfinite = 0;
};

DIFFUSERS_HOST_DEVICE inline GradientNorm merge(const GradientNorm& a, const GradientNorm& b) {
  return {a.squares + b.squares, a.nonfinite + b.nonfinite > 0 ? 1.0F : 0.0F};
}

/// @param inverse_scale factor on the gradient
DIFFUSERS_HOST_DEVICE inline GradientNorm gradient_norm(float grad, float inverse_scale) {
  const float value = grad * inverse_scale;
  // The difference is NaN for an infinity and for NaN.
  return {value * value, grad - grad == 0 ? 0.0F : 1.0F};
}

/// Options of a step.
struct AdamWOptions {
  double learning_rate = 0;
  double beta1 = 0;
  double beta2 = 0;
  double eps = 0;
  double weight_decay = 0;
  bool is_decoupled = true;  ///< AdamW; false: Adam
  float average_weight = 0;  ///< 1 - decay of the EMA
};

/// The factors of one tensor in one step.
struct AdamWFactors {
  float grad_factor = 1;  ///< unscaling and clipping
  float beta1_rest = 0;   ///< 1 - beta1
  float beta2 = 0;
  float beta2_rest = 0;  ///< 1 - beta2
  float eps = 0;
  float shrink = 1;           ///< factor on the parameter: decoupled weight decay
  float decay = 0;            ///< factor on the parameter that the gradient gains: Adam's weight decay
  float step_size = 0;        ///< lr / (1 - beta1^t)
  float root_correction = 1;  ///< sqrt(1 - beta2^t)
  float average_weight = 0;
};

/// @param step number of the step, from 1 on
DIFFUSERS_HOST_DEVICE inline AdamWFactors adamw_factors(const AdamWOptions& options, double learning_rate,
                                                        float grad_factor, float step) {
  AdamWFactors factors;
  factors.grad_factor = grad_factor;
  factors.beta1_rest = static_cast<float>(1 - options.beta1);
  factors.beta2 = static_cast<float>(options.beta2);
  factors.beta2_rest = static_cast<float>(1 - options.beta2);
  factors.eps = static_cast<float>(options.eps);
  if (options.is_decoupled) {
    factors.shrink = static_cast<float>(1 - learning_rate * options.weight_decay);
  } else {
    factors.decay = static_cast<float>(options.weight_decay);
  }
  factors.step_size = static_cast<float>(learning_rate / (1 - pow(options.beta1, static_cast<double>(step))));
  factors.root_correction = static_cast<float>(sqrt(1 - pow(options.beta2, static_cast<double>(step))));
  factors.average_weight = options.average_weight;
  return factors;
}

/// Returns start + weight (end - start), as LibTorch's lerp computes it.
DIFFUSERS_HOST_DEVICE inline float interpolated(float start, float end, float weight) {
  return weight < 0.5F ? start + weight * (end - start) : end - (end - start) * (1 - weight);
}

/// The numbers of one element.
struct AdamWElement {
  float param = 0;
  float exp_avg = 0;
  float exp_avg_sq = 0;
};

/// Returns the element after a step (Loshchilov and Hutter 2019, algorithm 2).
DIFFUSERS_HOST_DEVICE inline AdamWElement adamw(const AdamWFactors& factors, AdamWElement element,
                                                float grad) {
  grad *= factors.grad_factor;
  grad += factors.decay * element.param;
  element.param *= factors.shrink;
  element.exp_avg = interpolated(element.exp_avg, grad, factors.beta1_rest);
  element.exp_avg_sq = factors.beta2 * element.exp_avg_sq + factors.beta2_rest * grad * grad;
  const float root = sqrtf(element.exp_avg_sq) / factors.root_correction + factors.eps;
  element.param -= factors.step_size * element.exp_avg / root;
  return element;
}

/// Returns the factor of `clip_grad_norm_` times the inverse scale.
/// @param max_norm 0: no clipping
DIFFUSERS_HOST_DEVICE inline float clip_factor(float norm, float max_norm, float inverse_scale) {
  if (!(max_norm > 0)) return inverse_scale;
  const float factor = max_norm / (norm + 1e-6F);
  return factor < 1 ? factor * inverse_scale : inverse_scale;
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
