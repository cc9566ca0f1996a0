#pragma once

// Calls the transposing kernels with tensors: float32, contiguous, not empty, on the CPU.

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {
namespace cpu {

/// Calls run(begin, end) for parts of the items of `transpose` for matrices `[rows, columns]`, in parallel.
void for_each_transpose_item(int64_t matrices, int64_t rows, int64_t columns,
                             const std::function<void(int64_t, int64_t)>& run);

/// Transposes `from` `[B, R, C]` and adds `addend`, if it is defined.
/// @param to `B * R * C` elements in the order `[B, C, R]`, which is also the order of `addend`
void transpose_into(const at::Tensor& from, const at::Tensor& addend, const at::Tensor& to);

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
