#pragma once

// The CUDA kernels of the multi-tensor optimizer step. The host does not wait for the device.

#include <cuda_runtime_api.h>

#include "ops/cuda/adamw_math.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

/// Results of `finish_gradient_norm` on the device.
struct GradientOutcome {
  float norm = 0;         ///< norm of all gradients, unscaled
  float nonfinite = 0;    ///< 1 if a gradient is not finite
  float grad_factor = 1;  ///< factor on the gradients: unscaling and clipping
};

/// Writes the norm of each chunk of a table.
/// @param scale one number, by which the gradients are divided; null: 1
/// @param partial receives `table.chunks` elements
/// @return error code of the launch
cudaError_t gradient_norms(const TensorTable& table, const float* scale, GradientNorm* partial,
                           cudaStream_t stream);

/// Combines the norms of all chunks of all tables.
/// @param max_norm 0: no clipping
/// @return error code of the launch
cudaError_t finish_gradient_norm(const GradientNorm* partial, int64_t count, const float* scale,
                                 float max_norm, GradientOutcome* outcome, cudaStream_t stream);

/// Steps the tensors of a table.
/// @param learning_rate one number that takes the place of `options.learning_rate`; null: none
/// @param outcome the factor on the gradients
/// @param skip one number; 1: parameters and moments stay, the averages move
/// @param factors receives `table.count` elements
/// @return error code of the launch
cudaError_t adamw_step(const TensorTable& table, const AdamWOptions& options, const double* learning_rate,
                       const GradientOutcome* outcome, const float* skip, AdamWFactors* factors,
                       cudaStream_t stream);

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
