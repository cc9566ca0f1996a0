#pragma once

// The arithmetic of the kernels of GEGLU and of the timestep embedding. All numbers are float32.

#include <cmath>

#include "ops/cuda/host_device.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

/// The gradients of the two halves of GEGLU's input.
struct GegluGradients {
  float value = 0;
  float gate = 0;
};

/// Returns the standard normal distribution function.
DIFFUSERS_HOST_DEVICE inline float normal_cdf(float x) { return 0.5F * (1.0F + erff(x * 0.70710678F)); }

/// y = value gelu(gate) (Shazeer 2020, arXiv 2002.05202), with the exact gelu.
DIFFUSERS_HOST_DEVICE inline float geglu(float value, float gate) {
  return value * (gate * normal_cdf(gate));
}

DIFFUSERS_HOST_DEVICE inline GegluGradients geglu_gradients(float grad_y, float value, float gate) {
  const float phi = normal_cdf(gate);
  const float density = 0.39894228F * expf(-0.5F * gate * gate);
  return {grad_y * gate * phi, grad_y * value * (phi + gate * density)};
}

/// The vectors of GEGLU: x is `[rows, 2 features]`, y is `[rows, features]`.
struct GegluShape {
  int64_t rows = 0;
  int64_t features = 0;

  DIFFUSERS_HOST_DEVICE int64_t size() const { return rows * features; }
  /// Returns the place in x of the value that belongs to element `i` of y; the gate is `features` behind it.
  DIFFUSERS_HOST_DEVICE int64_t value_index(int64_t i) const {
    return i / features * 2 * features + i % features;
  }
};

/// Options of `get_timestep_embedding`.
struct TimestepEmbeddingShape {
  int64_t count = 0;
  int64_t dim = 0;
  bool flip_sin_to_cos = false;
  float log_period = 0;   ///< -log(max_period)
  float frequencies = 0;  ///< dim / 2 - downscale_freq_shift
  float scale = 1;
};

/// Returns the element `column` of the embedding of a timestep. The operations have the order of
/// `get_timestep_embedding`. The last element of an odd dim is 0.
DIFFUSERS_HOST_DEVICE inline float timestep_embedding(const TimestepEmbeddingShape& shape, float timestep,
                                                      int64_t column) {
  const int64_t half = shape.dim / 2;
  if (column >= 2 * half) return 0;
  const float exponent = shape.log_period * static_cast<float>(column % half) / shape.frequencies;
  float angle = timestep * expf(exponent);
  if (shape.scale != 1) angle = shape.scale * angle;
  return (column < half) == shape.flip_sin_to_cos ? cosf(angle) : sinf(angle);
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
