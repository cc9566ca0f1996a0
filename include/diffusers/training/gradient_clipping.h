#pragma once

#include <vector>

#include <diffusers/core/tensor.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Scales the gradients in place so that their common norm is at most `max_norm`
/// (torch.nn.utils.clip_grad_norm_), without the host reading anything.
/// @return the norm before scaling, 0-dim float32; 0 if there are no gradients
Tensor clip_grad_norm_(const std::vector<Tensor>& parameters, double max_norm, double norm_type = 2.0);

/// The common norm of the gradients, 0-dim; what `clip_grad_norm_` returns.
Tensor get_total_grad_norm(const std::vector<Tensor>& parameters, double norm_type = 2.0);

}  // namespace diffusers
