#include "ops/linear.h"

#include <array>
#include <atomic>
#include <optional>

#include <diffusers/ops/fused.h>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/cpu/multiply.h"
#include "ops/optional_tensor.h"

namespace diffusers {
namespace {

/// Smallest number of multiplications; below, the products of LibTorch take a few microseconds.
constexpr int64_t kLeastProduct = int64_t{1} << 19;

std::atomic<int64_t> g_forced_lanes{kChosenLanes};

/// Input, weight and bias of a layer, or their gradients.
struct LinearTensors {
  at::Tensor input, weight, bias;
};

using GradientMask = std::array<bool, 3>;

bool is_plain_matrix(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided &&
         tensor.is_contiguous() && tensor.numel() > 0;
}

bool any_requires_grad(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias) {
  return at::GradMode::is_enabled() &&
         (input.requires_grad() || weight.requires_grad() || (bias.defined() && bias.requires_grad()));
}

const float* data_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

at::Tensor linear_product(const cpu::MatrixKernel& kernel, const at::Tensor& input, const at::Tensor& weight,
                          const at::Tensor& bias) {
  const int64_t in = weight.size(1);
  const int64_t out = weight.size(0);
  const int64_t rows = input.numel() / in;
  auto sizes = input.sizes().vec();
  sizes.back() = out;
  at::Tensor result = at::empty(sizes, input.options());
  cpu::multiply(kernel, {.rows = rows,
                         .columns = out,
                         .depth = in,
                         .left = {data_of(input), in},
                         .right = {data_of(weight), in, true},
                         .column_bias = data_of(bias),
                         .to = result.mutable_data_ptr<float>(),
                         .to_stride = out});
  return result;
}

LinearTensors linear_gradients(const cpu::MatrixKernel& kernel, const at::Tensor& grad_output,
                               const at::Tensor& input, const at::Tensor& weight, const GradientMask& mask) {
  const int64_t in = weight.size(1);
  const int64_t out = weight.size(0);
  const int64_t rows = input.numel() / in;
  const at::Tensor grad = grad_output.contiguous();
  LinearTensors result;
  if (mask[0]) {
    result.input = at::empty_like(input);
    cpu::multiply(kernel, {.rows = rows,
                           .columns = in,
                           .depth = out,
                           .left = {data_of(grad), out},
                           .right = {data_of(weight), in},
                           .to = result.input.mutable_data_ptr<float>(),
                           .to_stride = in});
  }
  if (mask[2]) result.bias = mask[1] ? at::empty({out}, grad.options()) : grad.view({rows, out}).sum(0);
  if (mask[1]) {
    result.weight = at::empty_like(weight);
    cpu::multiply(kernel, {.rows = out,
                           .columns = in,
                           .depth = rows,
                           .left = {data_of(grad), out, true},
                           .right = {data_of(input), in},
                           .row_sums = mask[2] ? result.bias.mutable_data_ptr<float>() : nullptr,
                           .to = result.weight.mutable_data_ptr<float>(),
                           .to_stride = in});
  }
  return result;
}

/// Computes the gradients with differentiable operations, for second derivatives.
LinearTensors composed_linear_gradients(const at::Tensor& grad, const at::Tensor& input,
                                        const at::Tensor& weight, const GradientMask& mask) {
  const at::Tensor grads = grad.reshape({-1, weight.size(0)});
  return {mask[0] ? at::matmul(grad, weight) : at::Tensor(),
          mask[1] ? at::mm(grads.t(), input.reshape({-1, weight.size(1)})) : at::Tensor(),
          mask[2] ? grads.sum(0) : at::Tensor()};
}

at::Tensor pointwise_product(const cpu::MatrixKernel& kernel, const at::Tensor& input,
                             const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t in = weight.size(1);
  const int64_t out = weight.size(0);
  const int64_t positions = input.size(2) * input.size(3);
  at::Tensor result = at::empty({input.size(0), out, input.size(2), input.size(3)}, input.options());
  cpu::multiply(kernel,
                {.rows = out,
                 .columns = positions,
                 .depth = in,
                 .left = {data_of(weight), in},
                 .right = {data_of(input), positions},
                 .row_bias = data_of(bias),
                 .to = result.mutable_data_ptr<float>(),
                 .to_stride = positions},
                input.size(0), {.right = in * positions, .to = out * positions});
  return result;
}

LinearTensors pointwise_gradients(const cpu::MatrixKernel& kernel, const at::Tensor& grad_output,
                                  const at::Tensor& input, const at::Tensor& weight,
                                  const GradientMask& mask) {
  const int64_t in = weight.size(1);
  const int64_t out = weight.size(0);
  const int64_t positions = input.size(2) * input.size(3);
  const at::Tensor grad = grad_output.contiguous();
  LinearTensors result;
  if (mask[0]) result.input = pointwise_product(kernel, grad, weight.transpose(0, 1).contiguous(), {});
  if (mask[2]) result.bias = mask[1] ? at::empty({out}, grad.options()) : grad.sum({0, 2, 3});
  if (mask[1]) {
    result.weight = at::empty_like(weight);
    cpu::multiply(kernel, {.rows = out,
                           .columns = in,
                           .depth = positions,
                           .left = {data_of(grad), positions},
                           .right = {data_of(input), positions, true},
                           .pairs = input.size(0),
                           .left_step = out * positions,
                           .right_step = in * positions,
                           .row_sums = mask[2] ? result.bias.mutable_data_ptr<float>() : nullptr,
                           .to = result.weight.mutable_data_ptr<float>(),
                           .to_stride = in});
  }
  return result;
}

LinearTensors composed_pointwise_gradients(const at::Tensor& grad, const at::Tensor& input,
                                           const at::Tensor& weight, const GradientMask& mask) {
  const std::array<int64_t, 2> one{1, 1};
  const std::array<int64_t, 2> zero{0, 0};
  const std::array<int64_t, 1> bias_sizes{weight.size(0)};
  auto [grad_input, grad_weight, grad_bias] =
      at::convolution_backward(grad, input, weight, at::OptionalIntArrayRef(bias_sizes), one, zero, one,
                               /*transposed=*/false, zero, 1, mask);
  return {grad_input, grad_weight, grad_bias};
}

/// Returns the kernel for the three products of a layer, or null.
const cpu::MatrixKernel* layer_kernel(const at::Tensor& input, const at::Tensor& weight) {
  return fused_cpu() ? chosen_matrix_kernel(input.numel() * weight.size(0)) : nullptr;
}

/// The two layers differ in their sizes only. LibTorch's custom functions accept an absent bias, but no
/// undefined tensor.
template <auto kForward, auto kBackward, auto kComposed>
class ProductFunction : public torch::autograd::Function<ProductFunction<kForward, kBackward, kComposed>> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
    context->save_for_backward({input, weight});
    context->saved_data["bias"] = bias.has_value();
    return kForward(*layer_kernel(input, weight), input, weight, bias.value_or(at::Tensor()));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = context->get_saved_variables();
    const GradientMask mask{context->needs_input_grad(0), context->needs_input_grad(1),
                            context->saved_data["bias"].toBool() && context->needs_input_grad(2)};
    const auto* kernel = at::GradMode::is_enabled() ? nullptr : layer_kernel(saved[0], saved[1]);
    const auto gradients = kernel == nullptr ? kComposed(grad_outputs[0], saved[0], saved[1], mask)
                                             : kBackward(*kernel, grad_outputs[0], saved[0], saved[1], mask);
    return {gradients.input, gradients.weight, gradients.bias};
  }
};

using LinearFunction = ProductFunction<linear_product, linear_gradients, composed_linear_gradients>;
using PointwiseFunction =
    ProductFunction<pointwise_product, pointwise_gradients, composed_pointwise_gradients>;

bool can_use_products(const at::Tensor& weight, const at::Tensor& bias) {
  return is_plain_matrix(weight) && (!bias.defined() || is_plain_matrix(bias)) &&
         !at::autocast::is_autocast_enabled(at::kCPU);
}

}  // namespace

inline namespace internal {

void force_matrix_kernel(int64_t max_lanes) { g_forced_lanes = max_lanes; }

const cpu::MatrixKernel* chosen_matrix_kernel(int64_t multiplications) {
  if (const int64_t lanes = g_forced_lanes; lanes != kChosenLanes) return cpu::matrix_kernel(lanes);
  if (multiplications < kLeastProduct) return nullptr;
  static const cpu::MatrixKernel* const best = [] {
    const auto* kernel = cpu::matrix_kernel();
    return kernel != nullptr && kernel->lanes == 16 && cpu::is_amd_processor() ? kernel : nullptr;
  }();
  return best;
}

at::Tensor fast_linear(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias) {
  const bool fits = can_use_products(weight, bias) && weight.dim() == 2 && input.is_cpu() &&
                    input.scalar_type() == at::kFloat && input.layout() == at::kStrided &&
                    input.numel() > 0 && input.dim() >= 2 && input.size(-1) == weight.size(1) &&
                    (!bias.defined() || (bias.dim() == 1 && bias.size(0) == weight.size(0))) &&
                    layer_kernel(input, weight) != nullptr;
  if (!fits) return at::linear(input, weight, optional_tensor(bias));
  const at::Tensor rows = input.contiguous();
  if (!any_requires_grad(input, weight, bias))
    return linear_product(*layer_kernel(rows, weight), rows, weight, bias);
  return LinearFunction::apply(rows, weight, optional_tensor(bias));
}

bool fits_pointwise(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias, int64_t stride,
                    int64_t padding) {
  return can_use_products(weight, bias) && stride == 1 && padding == 0 && input.dim() == 4 &&
         weight.size(2) == 1 && weight.size(3) == 1 && is_plain_matrix(input) &&
         layer_kernel(input, weight) != nullptr;
}

at::Tensor pointwise_convolution(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias) {
  if (!any_requires_grad(input, weight, bias))
    return pointwise_product(*layer_kernel(input, weight), input, weight, bias);
  return PointwiseFunction::apply(input, weight, optional_tensor(bias));
}

}  // namespace internal
}  // namespace diffusers
