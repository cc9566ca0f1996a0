#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "ops/cpu/matrix_product.h"

namespace diffusers {
inline namespace internal {

/// The kernel is chosen by size and processor.
inline constexpr int64_t kChosenLanes = -1;

/// Makes every product of a supported kind use the kernel of this library with at most `max_lanes` lanes, or
/// LibTorch with 0. `kChosenLanes` restores the choice. For tests and measurements.
void force_matrix_kernel(int64_t max_lanes);

/// Returns the kernel for float32 products of so many multiplications, or null for LibTorch's. It is used
/// with AVX-512 on AMD processors, where MKL uses AVX2 only, and not for small products. The choice depends
/// only on the number and the machine.
const cpu::MatrixKernel* chosen_matrix_kernel(int64_t multiplications);

/// Computes input weight^T + bias like `torch.nn.functional.linear`, with the matrix products of this library
/// for contiguous float32 weights on the CPU, without autocast. Second derivatives use LibTorch.
/// @param input `[..., in]`
/// @param weight `[out, in]`
/// @param bias `[out]`, or an undefined tensor
/// @return `[..., out]`
at::Tensor fast_linear(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias);

/// Returns true if `pointwise_convolution` can compute the convolution with this library's products.
bool fits_pointwise(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias, int64_t stride,
                    int64_t padding);

/// Computes a convolution with a 1x1 filter, stride 1 and no padding as a matrix product for each image.
/// `fits_pointwise` must be true.
at::Tensor pointwise_convolution(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace internal
}  // namespace diffusers
