#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The tensor type of the library is LibTorch's own.
using Tensor = at::Tensor;

/// Formats a shape for messages: "[2, 3, 28, 28]".
std::string shape_string(at::IntArrayRef sizes);

/// Describes a tensor for messages: "float32 [2, 3, 28, 28] on cpu", or "an undefined tensor".
std::string describe(const Tensor& tensor);

/// Returns Python's name of a dtype: "float32", "bfloat16", "int64", ...
std::string dtype_name(at::ScalarType dtype);

}  // namespace diffusers
