#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// Where the first value that is not finite came out of: "down_blocks.0.resnets.1.conv1 (aten::convolution)".
///
/// torch::nn has no hooks on a module's output, so the operations are watched instead: each belongs to the
/// module whose parameter was used last. Works for any model. Slow, since every output is read.
///
/// Thread-safe. Only operations of the calling thread are watched, and of threads that run under its
/// at::ThreadLocalState; a data loader's threads are not.
/// @param parameters with their names in the model
/// @param forward computes the model
/// @return none if all outputs were finite
std::optional<std::string> find_nonfinite_output(const NamedTensors& parameters,
                                                 const std::function<void()>& forward);

/// The name of the first tensor that is not finite everywhere; none if all are.
std::optional<std::string> find_nonfinite(const NamedTensors& tensors);

}  // namespace internal
}  // namespace diffusers
