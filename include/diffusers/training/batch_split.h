#pragma once

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/training/trainable_denoiser.h>

namespace diffusers {

/// Computes `model.denoise` on the CPU in parallel over parts of the batch. One thread computes a part,
/// forward and backward.
///
/// LibTorch divides each operation among its threads, which gains little for small layers. Here the threads
/// synchronise only once in the forward and once in the backward pass. The gradients of the parts are added
/// in order. A run therefore repeats bit for bit with the same number of parts, for any number of threads.
///
/// The sample and the fields of the conditioning also receive gradients, as the hidden states of a text
/// encoder that is trained. The batch is not divided if `parts` is 1, if nothing requires a gradient, or if a
/// field of the conditioning has another number of rows than the sample.
/// @param model model whose parameters receive the gradients; several threads call its `denoise` at once
/// @param sample `[B, ...]` on the CPU; B may be less than `parts`
/// @param timesteps `[B]` or 0-dim
/// @param conditioning inputs with B rows
/// @param parts number of parts, above 0
/// @return the prediction for the whole batch
/// @throws ConfigError if `parts` is less than 1; TensorError for a sample that is not on the CPU
Tensor predict_in_parts(const TrainableDenoiser& model, const Tensor& sample, const Tensor& timesteps,
                        const Conditioning& conditioning, int64_t parts);

}  // namespace diffusers
