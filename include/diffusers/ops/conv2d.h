#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// When `fast_conv2d` uses the Winograd kernels of this library.
enum class WinogradMode {
  kOff,        ///< never
  kAutomatic,  ///< for the shapes at which they were measured as faster than LibTorch's convolution
  kForced      ///< for every shape that they support; for tests and measurements
};

/// Sets when `fast_conv2d` uses the Winograd kernels. The default is `kAutomatic`, or the environment
/// variable `DIFFUSERS_WINOGRAD`: `0` means `kOff`, `1` means `kAutomatic` and `force` means `kForced`. The
/// setting applies to the whole process. A backward pass uses the setting at the time when it runs.
/// @param mode the new setting
void set_winograd(WinogradMode mode);

/// Returns the current setting.
/// @return the setting of `set_winograd`, of the environment, or `kAutomatic`
/// @throws ConfigError if `DIFFUSERS_WINOGRAD` has another value than the three above
WinogradMode winograd();

/// Computes a 2D convolution like `torch.nn.functional.conv2d` without dilation and groups.
///
/// On the CPU, contiguous float32 convolutions with a 3x3 filter, stride 1 and padding 1 can use Winograd's
/// F(4x4, 3x3) (Lavin and Gray 2016) for the output, the gradient of the input and the gradient of the
/// weight. It needs a quarter of the multiplications. Tiny images use F(2x2, 3x3). A fixed table of sizes
/// chooses between it and LibTorch's convolution, for each of the three. The largest error of the output and
/// of both gradients, relative to the largest element, is below 5e-6 (`docs/numerics.md`).
/// `set_fused_cpu(false)` disables the kernels.
///
/// All other convolutions use LibTorch: other dtypes, devices, filters and strides, channels_last tensors,
/// autocast, and second derivatives. The result is deterministic. The gradient of the weight may depend on
/// the number of threads.
///
/// @param input `[B, C, H, W]` or `[C, H, W]`; B may be 0
/// @param weight `[K, C, R, S]`, dtype and device of `input`; under autocast any floating dtype
/// @param bias `[K]`, or an undefined tensor
/// @param stride step between outputs in both dimensions, at least 1
/// @param padding zeros added at each side of both dimensions, at least 0
/// @return `[B, K, H', W']` or `[K, H', W']`
/// @throws TensorError naming the expected and the actual value if a shape, dtype, device or number does not
///   fit
/// @throws ConfigError as `winograd`
at::Tensor fast_conv2d(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias = {},
                       int64_t stride = 1, int64_t padding = 0);

}  // namespace diffusers
