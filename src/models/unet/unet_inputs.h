#pragma once

// What the UNets and the ControlNet check alike: fields of their configs, and inputs of their forward.

#include <cstdint>
#include <optional>
#include <string_view>

#include <diffusers/core/one_or_many.h>
#include <diffusers/core/tensor.h>

#include "models/checks.h"

namespace diffusers {
inline namespace internal {

void check_sample_size(const OneOrMany<int64_t>& sample_size);

void check_unet_timestep(const at::Scalar& timestep);
/// 0-dim, in Python's dtype of such a number: int64 or float64.
Tensor unet_timestep(const at::Scalar& timestep);
/// @return `[B]` of `[B]`, `[1]` or 0-dim timesteps
Tensor broadcast_unet_timesteps(const Tensor& timesteps, const Tensor& sample);
/// Each number in [0, rows); looked at only where that costs no synchronisation.
void check_index_range(const Tensor& indices, int64_t rows, std::string_view what, std::string_view key);
/// @return `[B]` or `[1]` of class labels that are numbers
Tensor one_label_for_each(const Tensor& class_labels, int64_t batch);
/// @return labels as int64, each in [0, rows)
Tensor class_indices(const Tensor& labels, int64_t rows, std::string_view key);
/// A mask `[B, S]` as what is added to the scores `[B, 1, 1, S]`: 0 where a token takes part, else -10000.
/// Undefined for an undefined mask.
Tensor attention_bias(const Tensor& mask, const Tensor& sample, std::string_view what);

}  // namespace internal
}  // namespace diffusers
