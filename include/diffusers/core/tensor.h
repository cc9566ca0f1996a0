#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The tensor type of the library is LibTorch's own.
using Tensor = at::Tensor;

/// Formats a shape for messages.
/// @param sizes the shape
/// @return text such as "[2, 3, 28, 28]"
std::string shape_string(at::IntArrayRef sizes);

/// Describes a tensor for messages.
/// @param tensor any tensor; may be undefined
/// @return text such as "float32 [2, 3, 28, 28] on cpu", or "an undefined tensor"
std::string describe(const Tensor& tensor);

/// Returns Python's name of a dtype.
/// @param dtype the dtype
/// @return text such as "float32", "bfloat16" or "int64"
std::string dtype_name(at::ScalarType dtype);

}  // namespace diffusers
