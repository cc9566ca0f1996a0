#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

/// The form in which LibTorch takes a tensor that may be missing.
inline std::optional<at::Tensor> optional_tensor(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

}  // namespace internal
}  // namespace diffusers
