#pragma once

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/training/trainable_denoiser.h>

namespace diffusers {

/// Calls `model.denoise` on the CPU with the batch split into `parts`; one thread computes a part, forward
/// and backward.
///
/// LibTorch parallelises each operation by itself, which gains little for small layers. Parts of a batch
/// synchronise only once in the forward and once in the backward pass. The gradients of the parts are added
/// in their order, so that a run repeats bit for bit with the same number of parts, whatever the number of
/// threads.
///
/// With one part, without gradients, and if the sample requires a gradient, this is `model.denoise`.
/// @param sample `[B, ...]`; B may be below `parts`
/// @param timesteps `[B]`
/// @param conditioning `[B, ...]` in each field that is given
/// @throws ConfigError unless parts is positive; TensorError for a sample that is not on the CPU
Tensor predict_in_parts(const TrainableDenoiser& model, const Tensor& sample, const Tensor& timesteps,
                        const Conditioning& conditioning, int64_t parts);

}  // namespace diffusers
