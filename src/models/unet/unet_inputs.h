#pragma once

// Checks of config fields and forward inputs that the UNets and the ControlNet have in common.

#include <cstdint>
#include <optional>
#include <string_view>

#include <diffusers/core/tensor.h>

#include "models/checks.h"

namespace diffusers {
inline namespace internal {

void check_unet_timestep(const at::Scalar& timestep);
/// Returns a 0-dim tensor with Python's dtype of the number: int64 or float64.
Tensor unet_timestep(const at::Scalar& timestep);
/// Expands timesteps `[B]`, `[1]` or 0-dim.
/// @return `[B]`
Tensor broadcast_unet_timesteps(const Tensor& timesteps, const Tensor& sample);
/// Checks that each index is in [0, rows). Indices on a device are not checked, because that would
/// synchronise.
void check_index_range(const Tensor& indices, int64_t rows, std::string_view what, std::string_view key);
/// Checks class labels that are numbers.
/// @return `[B]` or `[1]`
Tensor one_label_for_each(const Tensor& class_labels, int64_t batch);
/// Checks class labels.
/// @return labels as int64, each in [0, rows)
Tensor class_indices(const Tensor& labels, int64_t rows, std::string_view key);
/// Converts a mask `[B, S]` to a bias `[B, 1, 1, S]` for the scores: 0 for a token that takes part, else
/// -10000. An undefined mask gives an undefined bias.
Tensor attention_bias(const Tensor& mask, const Tensor& sample, std::string_view what);

}  // namespace internal
}  // namespace diffusers
