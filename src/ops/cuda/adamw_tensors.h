#pragma once

// Calls the CUDA kernels of the multi-tensor optimizer step with tensors.

#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/cuda/adamw_math.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

/// Lists of equal length: float32 on one CUDA device, dense, of the parameter's strides.
struct AdamWTensors {
  std::vector<at::Tensor> params, grads, exp_avgs, exp_avg_sqs;
  std::vector<at::Tensor> steps;     ///< 0-dim
  std::vector<at::Tensor> averages;  ///< empty, or one for each parameter; undefined: no EMA
};

/// Computes the norm of the gradients without changing them.
/// @param grads float32 on one CUDA device, dense, one or more
/// @param scale `[1]`, by which the gradients are divided; undefined: 1
/// @param max_norm 0: no clipping
/// @return float32 `[3]`: the norm of the unscaled gradients; 1 if one of them is not finite, else 0; the
///         factor on the gradients that unscales and clips them
at::Tensor run_gradient_norm(const std::vector<at::Tensor>& grads, const at::Tensor& scale, double max_norm);

/// Steps all parameters, their moments and their averages.
/// @param learning_rate float64, 0-dim, in the place of the option; undefined: the option
/// @param outcome result of `run_gradient_norm`
/// @param skip float32, one element; 1: only the averages move
void run_adamw(const AdamWTensors& tensors, const AdamWOptions& options, const at::Tensor& learning_rate,
               const at::Tensor& outcome, const at::Tensor& skip);

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
