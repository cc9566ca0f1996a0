#pragma once

// One number for each sample of a batch.

#include <diffusers/core/tensor.h>

#include <ATen/ATen.h>

#include "core/per_sample.h"

namespace diffusers {
inline namespace internal {

/// Reshapes one number for each sample so that it broadcasts over `samples`.
/// @param values `[B]`, or 0-dim for one number for all samples
/// @param samples `[B, ...]`
/// @return `[B, 1, ...]` (or 0-dim), of the dtype of `samples`
inline Tensor over_samples(const Tensor& values, const Tensor& samples) {
  if (values.dim() == 0) return values.to(samples.scalar_type());
  return broadcast_per_sample(values.to(samples.scalar_type()), samples.dim());
}

/// Computes the mean over the elements of each sample.
/// @param values `[B, ...]`
/// @return `[B]`
inline Tensor mean_of_each_sample(const Tensor& values) {
  return values.dim() > 1 ? values.flatten(1).mean(1) : values;
}

}  // namespace internal
}  // namespace diffusers
