#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace diffusers {

/// A random number generator. Without one, functions use the global generator of the device, as in Python.
using Generator = at::Generator;

/// Makes a CPU generator with the state of Python's `torch.Generator().manual_seed(seed)`.
/// @param seed the seed
/// @return the generator
Generator make_generator(uint64_t seed);

/// Seeds the global generators of the CPU and of every CUDA device (Python: `torch.manual_seed`).
/// @param seed the seed
void manual_seed(uint64_t seed);

/// Draws standard normal numbers as `diffusers.utils.torch_utils.randn_tensor` does. With a CPU generator the
/// numbers are drawn on the CPU and copied to `device`, so a seed gives the same numbers on every device.
/// @param shape sizes of the tensor
/// @param generator generator on the CPU or on `device`; nullopt uses the global generator of `device`
/// @param device device of the tensor
/// @param dtype floating dtype of the tensor
/// @return a contiguous tensor of the given shape, dtype and device
/// @throws TensorError if the generator is neither on the CPU nor on `device`
at::Tensor randn_tensor(at::IntArrayRef shape, const std::optional<Generator>& generator = std::nullopt,
                        at::Device device = at::kCPU, at::ScalarType dtype = at::kFloat);

}  // namespace diffusers
