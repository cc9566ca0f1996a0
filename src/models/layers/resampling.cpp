#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include <diffusers/models/resnet.h>

#include <c10/core/InferenceMode.h>
#include <torch/types.h>

#include "core/require.h"
#include "ops/upsample.h"

namespace diffusers {
namespace {

/// Returns the separable filter 1-3-3-1 as a 4x4 kernel whose elements sum to `sum`. It is made once for each
/// device and dtype, so that later forward passes copy nothing to the device.
Tensor fir_kernel(double sum, const Tensor& like) {
  using Key = std::tuple<double, at::DeviceType, at::DeviceIndex, at::ScalarType>;
  static std::mutex mutex;
  // Never destroyed, because at the end of the process the device may be shut down first.
  static auto* const kernels = new std::map<Key, Tensor>;
  const at::Device device = like.device();
  const std::lock_guard lock(mutex);
  Tensor& kernel = (*kernels)[{sum, device.type(), device.index(), like.scalar_type()}];
  if (!kernel.defined()) {
    // The kernel is kept after an inference mode ends, so it must not be an inference tensor.
    const c10::InferenceMode normal_mode(false);
    const torch::NoGradGuard no_grad;
    const auto taps = torch::tensor({1.F, 3.F, 3.F, 1.F}, torch::kFloat32);
    const auto outer = torch::outer(taps, taps);
    // The copy blocks, because other streams may use the kernel immediately.
    kernel = (outer / outer.sum() * sum).to(like.options());
  }
  return kernel;
}

/// Filters each channel separately, as a batch element with one channel.
Tensor filter_planes(const Tensor& planes, const Tensor& kernel, int64_t stride) {
  const auto flat = planes.reshape({-1, 1, planes.size(2), planes.size(3)});
  const auto weight = kernel.view({1, 1, kernel.size(0), kernel.size(1)});
  const auto filtered = torch::conv2d(flat, weight, {}, stride);
  return filtered.reshape({planes.size(0), planes.size(1), filtered.size(2), filtered.size(3)});
}

void require_size(const Tensor& hidden_states, int64_t least, const char* what) {
  require<TensorError>(hidden_states.defined() && hidden_states.dim() == 4 &&
                           hidden_states.size(2) >= least && hidden_states.size(3) >= least,
                       "{}: expected [B, C, H, W] with H and W at least {}, got {}", what, least,
                       describe(hidden_states));
}

}  // namespace

Tensor fir_upsample_2d(const Tensor& hidden_states) {
  require_size(hidden_states, 1, "FIR upsampling");
  const auto batch = hidden_states.size(0);
  const auto channels = hidden_states.size(1);
  const auto height = hidden_states.size(2);
  const auto width = hidden_states.size(3);
  // Insert a zero after each element, then filter with gain 4, which compensates for the zeros.
  auto spread = hidden_states.reshape({batch, channels, height, 1, width, 1});
  spread =
      torch::constant_pad_nd(spread, {0, 1, 0, 0, 0, 1}).reshape({batch, channels, 2 * height, 2 * width});
  spread = torch::constant_pad_nd(spread, {2, 1, 2, 1});
  return filter_planes(spread, fir_kernel(4.0, hidden_states), 1);
}

Tensor fir_downsample_2d(const Tensor& hidden_states) {
  require_size(hidden_states, 2, "FIR downsampling");
  const auto padded = torch::constant_pad_nd(hidden_states, {1, 1, 1, 1});
  return filter_planes(padded, fir_kernel(1.0, hidden_states), 2);
}

Tensor k_upsample_2d(const Tensor& hidden_states) {
  require_size(hidden_states, 2, "K upsampling");
  const auto padded = torch::reflection_pad2d(hidden_states, {1, 1, 1, 1});
  const auto planes = padded.reshape({-1, 1, padded.size(2), padded.size(3)});
  const auto weight = fir_kernel(4.0, hidden_states).view({1, 1, 4, 4});
  const auto up = torch::conv_transpose2d(planes, weight, {}, 2, 3);
  return up.reshape({hidden_states.size(0), hidden_states.size(1), up.size(2), up.size(3)});
}

Tensor k_downsample_2d(const Tensor& hidden_states) {
  require_size(hidden_states, 2, "K downsampling");
  const auto padded = torch::reflection_pad2d(hidden_states, {1, 1, 1, 1});
  return filter_planes(padded, fir_kernel(1.0, hidden_states), 2);
}

Downsample2DImpl::Downsample2DImpl(int64_t channels, const Downsample2DOptions& options) : options_(options) {
  const int64_t out_channels = options.out_channels.value_or(channels);
  if (options.use_conv) {
    conv_ = register_module("conv", layers::Conv2d(channels, out_channels,
                                                   layers::Conv2dOptions{.kernel_size = options.kernel_size,
                                                                         .stride = 2,
                                                                         .padding = options.padding,
                                                                         .bias = options.bias}));
  } else {
    require<ConfigError>(out_channels == channels, "averaging cannot turn {} channels into {}", channels,
                         out_channels);
  }
}

Tensor Downsample2DImpl::forward(const Tensor& hidden_states) const {
  if (!conv_) {
    require_size(hidden_states, 2, "downsampling by averaging");
    return torch::avg_pool2d(hidden_states, 2, 2);
  }
  return conv_->forward(options_.padding == 0 ? torch::constant_pad_nd(hidden_states, {0, 1, 0, 1})
                                              : hidden_states);
}

Upsample2DImpl::Upsample2DImpl(int64_t channels, const Upsample2DOptions& options) : options_(options) {
  const int64_t out_channels = options.out_channels.value_or(channels);
  if (options.use_conv) {
    conv_ = register_module("conv", layers::Conv2d(channels, out_channels,
                                                   layers::Conv2dOptions{.kernel_size = options.kernel_size,
                                                                         .padding = options.padding,
                                                                         .bias = options.bias}));
  }
}

Tensor Upsample2DImpl::forward(const Tensor& hidden_states,
                               std::optional<std::array<int64_t, 2>> output_size) const {
  auto hidden = hidden_states;
  if (options_.interpolate) {
    const std::array<int64_t, 2> doubled{2 * hidden.size(2), 2 * hidden.size(3)};
    const auto size = output_size.value_or(doubled);
    hidden = size == doubled ? upsample_double(hidden) : torch::upsample_nearest2d(hidden, size);
  }
  return conv_ ? conv_->forward(hidden) : hidden;
}

}  // namespace diffusers
