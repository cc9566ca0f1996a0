#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace diffusers {

/// A random number generator. Functions that are given none use the global generator of the device, as in
/// Python.
using Generator = at::Generator;

/// Returns a CPU generator with the state of Python's `torch.Generator().manual_seed(seed)`.
Generator make_generator(uint64_t seed);

/// Seeds the global generators of the CPU and of every CUDA device (Python: `torch.manual_seed`).
void manual_seed(uint64_t seed);

/// Draws standard normal numbers as `diffusers.utils.torch_utils.randn_tensor` does: with a CPU generator
/// they are drawn on the CPU and moved, so that a seed gives the same numbers on every device.
/// @param shape sizes of the tensor
/// @param generator generator on the CPU or on `device`; none uses the global generator of `device`
/// @param device device of the tensor
/// @param dtype floating dtype of the tensor
/// @return a contiguous tensor of the given shape, dtype and device
/// @throws TensorError if the generator is on another device than the CPU and `device`
at::Tensor randn_tensor(at::IntArrayRef shape, const std::optional<Generator>& generator = std::nullopt,
                        at::Device device = at::kCPU, at::ScalarType dtype = at::kFloat);

}  // namespace diffusers
