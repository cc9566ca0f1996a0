#pragma once

#include <vector>

#include <diffusers/core/tensor.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Scales the gradients in place so that their total norm is at most `max_norm`
/// (`torch.nn.utils.clip_grad_norm_`). The host does not wait for the device.
/// @param parameters parameters; those without a gradient are ignored
/// @param max_norm maximum total norm, 0 or more
/// @param norm_type order of the norm; infinity gives the largest absolute value
/// @return the total norm before scaling, 0-dim, on the device of the gradients: float64 if all gradients are
///         float64, else float32; 0 if there are no gradients
/// @throws ConfigError if `max_norm` is negative
Tensor clip_grad_norm_(const std::vector<Tensor>& parameters, double max_norm, double norm_type = 2.0);

/// Computes the total norm of the gradients (`torch.nn.utils.get_total_norm`).
/// @param parameters parameters; those without a gradient are ignored
/// @param norm_type order of the norm; infinity gives the largest absolute value
/// @return the total norm, as `clip_grad_norm_` returns it
Tensor get_total_grad_norm(const std::vector<Tensor>& parameters, double norm_type = 2.0);

}  // namespace diffusers
