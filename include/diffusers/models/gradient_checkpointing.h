#pragma once

#include <functional>
#include <vector>

#include <diffusers/core/tensor.h>

#include <torch/nn/module.h>

namespace diffusers {

/// Runs `body(inputs)` without keeping what its backward needs; the backward runs it again (Chen et al. 2016,
/// "Training deep nets with sublinear memory cost"). Value and gradients are those of a plain call, also
/// under autocast and, where `uses_random` says that the body draws numbers from the global generators, with
/// those numbers drawn again. Outside of gradient mode it is a plain call. Not differentiable twice.
/// @param body gives one tensor; must depend on nothing that changes before the backward
/// @param inputs all defined
/// @param owner its parameters take part in the gradient
Tensor checkpoint(std::function<Tensor(const std::vector<Tensor>&)> body, const std::vector<Tensor>& inputs,
                  const torch::nn::Module& owner, bool uses_random);

}  // namespace diffusers
