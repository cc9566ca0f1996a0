#pragma once

namespace torch::nn {
class Module;
}  // namespace torch::nn

namespace diffusers {
inline namespace internal {

/// Stores the 4-dimensional floating parameters of a module in channels-last order
/// (`module.to(memory_format=torch.channels_last)`). The parameters stay the same tensors.
void to_channels_last(torch::nn::Module& module);

}  // namespace internal
}  // namespace diffusers
