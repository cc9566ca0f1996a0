#pragma once

#include <functional>
#include <vector>

#include <diffusers/core/tensor.h>

#include <torch/nn/module.h>

namespace diffusers {

/// Runs `body(inputs)` without keeping the intermediate results that its backward pass needs. The backward
/// pass runs it again (Chen et al. 2016, "Training deep nets with sublinear memory cost"; PyTorch
/// `torch.utils.checkpoint`). Value and gradients equal those of a plain call, also under autocast. If
/// gradients are disabled, it is a plain call. The result is differentiable once.
/// @param body computes one tensor; must not depend on anything that changes before the backward pass
/// @param inputs the arguments of `body`, all defined
/// @param owner module whose parameters take part in the gradient
/// @param uses_random true if `body` draws from the global generators; the backward pass draws the same
///   numbers
/// @return the result of `body`
Tensor checkpoint(std::function<Tensor(const std::vector<Tensor>&)> body, const std::vector<Tensor>& inputs,
                  const torch::nn::Module& owner, bool uses_random);

}  // namespace diffusers
