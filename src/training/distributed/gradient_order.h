#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// Returns the indices of parameters in the order in which the backward pass of a loss will complete their
/// gradients: the engine runs the nodes of a graph from the last to the first. Parameters that the loss does
/// not use come last.
/// @param parameters leaf tensors that require a gradient
/// @param loss tensor with a graph
std::vector<int64_t> order_of_gradients(const std::vector<Tensor>& parameters, const Tensor& loss);

}  // namespace internal
}  // namespace diffusers
