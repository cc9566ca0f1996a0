#pragma once

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/training/trainable_model.h>

namespace diffusers {

/// `model.predict` on the CPU with the batch cut into `parts`: one thread computes a part, forward and
/// backward.
///
/// LibTorch threads each operation by itself, and layers that are small gain little from that; parts of a
/// batch need to meet only once each way. The gradients of the parts are added in their order, so that a run
/// repeats bit for bit with the same number of parts, whatever the number of threads.
///
/// Without gradients of the parameters to compute, with one part, and where the sample wants a gradient too,
/// this is `model.predict`.
/// @param sample `[B, ...]`, timesteps `[B]`, conditioning `[B, ...]` where defined; B may be below `parts`
/// @throws ConfigError unless parts is positive; TensorError for a sample that is not on the CPU
Tensor predict_in_parts(TrainableModel& model, const Tensor& sample, const Tensor& timesteps,
                        const Conditioning& conditioning, int64_t parts);

}  // namespace diffusers
