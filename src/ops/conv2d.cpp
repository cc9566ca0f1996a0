#include <array>
#include <atomic>
#include <cstdlib>
#include <optional>
#include <tuple>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/ops/conv2d.h>
#include <diffusers/ops/fused.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/require.h"
#include "ops/conv2d_passes.h"
#include "ops/cpu/winograd_convolution.h"
#include "ops/linear.h"
#include "ops/optional_tensor.h"
#include "ops/winograd_choice.h"

namespace diffusers {
namespace {

/// The mode that a program has set, or -1.
std::atomic<int> g_winograd{-1};

void check_conv2d(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias, int64_t stride,
                  int64_t padding) {
  require<TensorError>(input.defined() && (input.dim() == 4 || input.dim() == 3),
                       "fast_conv2d: input must be [B, C, H, W] or [C, H, W], got {}", describe(input));
  const int64_t channels = input.size(-3);
  require<TensorError>(weight.defined() && weight.dim() == 4 && weight.size(1) == channels,
                       "fast_conv2d: weight must be [K, {}, R, S] for input {}, got {}", channels,
                       describe(input), describe(weight));
  require<TensorError>(!bias.defined() || (bias.dim() == 1 && bias.size(0) == weight.size(0)),
                       "fast_conv2d: bias must be [{}] for weight {}, got {}", weight.size(0),
                       describe(weight), describe(bias));
  // LibTorch knows autocast on some devices only, so it is asked last.
  const auto fits = [&](const at::Tensor& tensor) {
    return !tensor.defined() ||
           (tensor.device() == input.device() && (tensor.scalar_type() == input.scalar_type() ||
                                                  at::autocast::is_autocast_enabled(input.device().type())));
  };
  require<TensorError>(fits(weight) && fits(bias),
                       "fast_conv2d: input, weight and bias must share dtype and device, got {}, {} and {}",
                       describe(input), describe(weight), describe(bias));
  require<TensorError>(stride >= 1 && padding >= 0,
                       "fast_conv2d: stride = {} and padding = {}, expected at least 1 and 0", stride,
                       padding);
  require<TensorError>(
      input.size(-2) + 2 * padding >= weight.size(2) && input.size(-1) + 2 * padding >= weight.size(3),
      "fast_conv2d: weight {} is larger than input {} with padding {}", describe(weight), describe(input),
      padding);
}

at::Tensor direct_convolution(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                              int64_t stride, int64_t padding) {
  return at::conv2d(input, weight, optional_tensor(bias), stride, padding);
}

}  // namespace

inline namespace internal {

Conv2dGradients conv2d_direct_gradients(const at::Tensor& grad, const at::Tensor& input,
                                        const at::Tensor& weight, Conv2dMask mask) {
  const std::array<int64_t, 2> one{1, 1};
  const std::array<int64_t, 2> zero{0, 0};
  const std::array<int64_t, 1> bias_sizes{weight.size(0)};
  return at::convolution_backward(grad, input, weight, at::OptionalIntArrayRef(bias_sizes), one, one, one,
                                  /*transposed=*/false, zero, 1, mask);
}

at::Tensor conv2d_output(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias) {
  const auto* kernel = cpu::winograd_kernel();
  if (!uses_winograd(ConvolutionPass::kOutput, winograd(), *kernel, input.sizes(), weight.sizes(),
                     at::get_num_threads()))
    return direct_convolution(input, weight, bias, 1, 1);
  return cpu::winograd_convolution(*kernel, cpu::winograd_tile(input.size(2), input.size(3)), input, weight,
                                   bias, false);
}

Conv2dGradients conv2d_gradients(const at::Tensor& grad_output, const at::Tensor& input,
                                 const at::Tensor& weight, Conv2dMask mask) {
  const auto mode = winograd();
  const auto* kernel = cpu::winograd_kernel();
  const auto use = [&](ConvolutionPass pass) {
    return fused_cpu() &&
           uses_winograd(pass, mode, *kernel, input.sizes(), weight.sizes(), at::get_num_threads());
  };
  const bool fast_input = mask[0] && use(ConvolutionPass::kInputGradient);
  const bool fast_weight = mask[1] && use(ConvolutionPass::kWeightGradient);
  if (!fast_input && !fast_weight) return conv2d_direct_gradients(grad_output, input, weight, mask);
  const at::Tensor grad = grad_output.contiguous();
  const int64_t tile = cpu::winograd_tile(input.size(2), input.size(3));
  Conv2dGradients result;
  // LibTorch computes the gradient of the bias together with that of the weight.
  const Conv2dMask rest{mask[0] && !fast_input, mask[1] && !fast_weight, mask[2] && mask[1] && !fast_weight};
  if (rest[0] || rest[1]) result = conv2d_direct_gradients(grad, input, weight, rest);
  if (fast_input) std::get<0>(result) = cpu::winograd_convolution(*kernel, tile, grad, weight, {}, true);
  if (fast_weight) std::get<1>(result) = cpu::winograd_weight_gradient(*kernel, tile, input, grad);
  if (mask[2] && !rest[2]) std::get<2>(result) = grad.sum({0, 2, 3});
  return result;
}

bool fits_winograd(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias, int64_t stride,
                   int64_t padding) {
  const auto plain = [](const at::Tensor& tensor) {
    return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided &&
           tensor.is_contiguous() && tensor.numel() > 0;
  };
  return fused_cpu() && winograd() != WinogradMode::kOff && cpu::winograd_kernel() != nullptr &&
         stride == 1 && padding == 1 && input.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 &&
         plain(input) && plain(weight) && (!bias.defined() || plain(bias)) &&
         !at::autocast::is_autocast_enabled(at::kCPU);
}

}  // namespace internal

namespace {

/// LibTorch's custom functions accept an absent bias, but no undefined tensor.
class FastConv2dFunction : public torch::autograd::Function<FastConv2dFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
    context->save_for_backward({input, weight});
    context->saved_data["bias"] = bias.has_value();
    return conv2d_output(input, weight, bias.value_or(at::Tensor()));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = context->get_saved_variables();
    const Conv2dMask mask{context->needs_input_grad(0), context->needs_input_grad(1),
                          context->saved_data["bias"].toBool() && context->needs_input_grad(2)};
    // LibTorch's gradients are differentiable.
    auto [input, weight, bias] = at::GradMode::is_enabled()
                                     ? conv2d_direct_gradients(grad_outputs[0], saved[0], saved[1], mask)
                                     : conv2d_gradients(grad_outputs[0], saved[0], saved[1], mask);
    return {input, weight, bias};
  }
};

}  // namespace

void set_winograd(WinogradMode mode) { g_winograd = static_cast<int>(mode); }

WinogradMode winograd() {
  const int mode = g_winograd;
  if (mode >= 0) return static_cast<WinogradMode>(mode);
  static const WinogradMode from_environment = parse_winograd_mode(std::getenv("DIFFUSERS_WINOGRAD"));
  return from_environment;
}

at::Tensor fast_conv2d(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                       int64_t stride, int64_t padding) {
  check_conv2d(input, weight, bias, stride, padding);
  const auto requires_grad = [](const at::Tensor& tensor) {
    return tensor.defined() && tensor.requires_grad();
  };
  if (fits_pointwise(input, weight, bias, stride, padding)) return pointwise_convolution(input, weight, bias);
  if (!fits_winograd(input, weight, bias, stride, padding))
    return direct_convolution(input, weight, bias, stride, padding);
  const bool tracked =
      at::GradMode::is_enabled() && (requires_grad(input) || requires_grad(weight) || requires_grad(bias));
  if (!tracked) return conv2d_output(input, weight, bias);
  return FastConv2dFunction::apply(input, weight, optional_tensor(bias));
}

}  // namespace diffusers
