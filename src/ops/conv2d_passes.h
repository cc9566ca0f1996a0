#pragma once

#include <array>
#include <tuple>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

/// Returns true for the convolutions that the Winograd kernels can compute.
bool fits_winograd(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias, int64_t stride,
                   int64_t padding);

/// Computes a convolution that `fits_winograd`, by the faster of the two algorithms, without gradients.
at::Tensor conv2d_output(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias);

/// Which gradients of input, weight and bias are needed.
using Conv2dMask = std::array<bool, 3>;
/// The gradients of input, weight and bias; undefined ones were not asked for.
using Conv2dGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

/// Returns the gradients of a convolution that `fits_winograd`, without second derivatives. Each is computed
/// by the faster of the two algorithms.
Conv2dGradients conv2d_gradients(const at::Tensor& grad_output, const at::Tensor& input,
                                 const at::Tensor& weight, Conv2dMask mask);

/// The same by LibTorch, twice differentiable.
Conv2dGradients conv2d_direct_gradients(const at::Tensor& grad, const at::Tensor& input,
                                        const at::Tensor& weight, Conv2dMask mask);

}  // namespace internal
}  // namespace diffusers
