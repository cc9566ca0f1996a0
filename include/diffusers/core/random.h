#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace diffusers {

/// A source of random numbers. Without one, the global generator of the device is used, as in Python.
using Generator = at::Generator;

/// A CPU generator with the state of Python's `torch.Generator().manual_seed(seed)`.
Generator make_generator(uint64_t seed);

/// Seeds the global generators of the CPU and of every CUDA device (Python: `torch.manual_seed`).
void manual_seed(uint64_t seed);

/// Standard normal numbers, drawn as `diffusers.utils.torch_utils.randn_tensor` draws them: with a CPU
/// generator they are drawn on the CPU and moved, so that a seed gives the same numbers whatever the device.
/// @throws TensorError if the generator is a CUDA generator and the tensor is wanted on the CPU
at::Tensor randn_tensor(at::IntArrayRef shape, const std::optional<Generator>& generator = std::nullopt,
                        at::Device device = at::kCPU, at::ScalarType dtype = at::kFloat);

}  // namespace diffusers
