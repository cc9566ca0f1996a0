#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The tensor type of the library is LibTorch's own.
using Tensor = at::Tensor;

/// "[2, 3, 28, 28]", as error messages show shapes.
std::string shape_string(at::IntArrayRef sizes);

/// "float32 [2, 3, 28, 28] on cpu", or "an undefined tensor".
std::string describe(const Tensor& tensor);

/// Python's name of a dtype: "float32", "bfloat16", "int64", ...
std::string dtype_name(at::ScalarType dtype);

}  // namespace diffusers
