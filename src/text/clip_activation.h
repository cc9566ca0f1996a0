#pragma once

#include <string_view>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {
namespace clip {

using ActivationFunction = Tensor (*)(const Tensor&);

/// An activation of transformers' `ACT2FN` by its name; those with parameters of their own are not among
/// them.
/// @throws ConfigError naming the value and the values that exist
ActivationFunction activation_function(std::string_view hidden_act);

}  // namespace clip
}  // namespace internal
}  // namespace diffusers
