#pragma once

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/training/trainable_denoiser.h>

namespace diffusers {

/// Computes `model.denoise` on the CPU with the batch cut into `parts`. One thread computes a part, forward
/// and backward.
///
/// LibTorch divides each operation among its threads, which gains little for small layers. The parts of a
/// batch meet only once in each direction. Their gradients are added in order, so a run repeats bit for bit
/// with the same number of parts, whatever the number of threads.
///
/// The batch is not cut if no parameter needs a gradient, if `parts` is 1, or if the sample or the
/// conditioning needs a gradient.
/// @param model its parameters receive the gradients
/// @param sample `[B, ...]`; B may be below `parts`
/// @param timesteps `[B]`
/// @param conditioning fields of B rows
/// @param parts number of parts, above 0
/// @return the prediction for the whole batch
/// @throws ConfigError unless `parts` is positive; TensorError for a sample that is not on the CPU
Tensor predict_in_parts(const TrainableDenoiser& model, const Tensor& sample, const Tensor& timesteps,
                        const Conditioning& conditioning, int64_t parts);

}  // namespace diffusers
