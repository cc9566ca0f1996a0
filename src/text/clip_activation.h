#pragma once

#include <string_view>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {
namespace clip {

using ActivationFunction = Tensor (*)(const Tensor&);

/// Returns an activation of transformers' `ACT2FN` by its name. Activations with parameters are not
/// supported.
/// @throws ConfigError naming the value and the valid values
ActivationFunction activation_function(std::string_view hidden_act);

}  // namespace clip
}  // namespace internal
}  // namespace diffusers
