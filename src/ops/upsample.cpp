#include "ops/upsample.h"

#include <algorithm>
#include <array>
#include <optional>

#include <diffusers/ops/fused.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/parallel.h"
#include "ops/cpu/kernels.h"

namespace diffusers {
namespace {

/// Calls run(begin, end) for parts of the rows of `images`, in parallel.
template <class Run>
void for_each_image_row(const at::Tensor& images, const Run& run) {
  constexpr int64_t kWorthAThread = 16384;  // pixels
  const int64_t width = images.size(3);
  parallel_for(0, images.numel() / width, std::max<int64_t>(1, kWorthAThread / width), run);
}

at::Tensor doubled(const at::Tensor& image) {
  at::Tensor result =
      at::empty({image.size(0), image.size(1), 2 * image.size(2), 2 * image.size(3)}, image.options());
  const auto* from = image.const_data_ptr<float>();
  auto* to = result.mutable_data_ptr<float>();
  for_each_image_row(image, [=, width = image.size(3)](int64_t begin, int64_t end) {
    cpu::double_rows(width, from, to, begin, end);
  });
  return result;
}

/// The sums of squares of 2 x 2 pixels.
at::Tensor halved(const at::Tensor& grad_output) {
  const at::Tensor grad = grad_output.contiguous();
  at::Tensor result =
      at::empty({grad.size(0), grad.size(1), grad.size(2) / 2, grad.size(3) / 2}, grad.options());
  const auto* from = grad.const_data_ptr<float>();
  auto* to = result.mutable_data_ptr<float>();
  for_each_image_row(result, [=, width = result.size(3)](int64_t begin, int64_t end) {
    cpu::halve_rows(width, from, to, begin, end);
  });
  return result;
}

class UpsampleFunction : public torch::autograd::Function<UpsampleFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& image) {
    context->saved_data["sizes"] = image.sizes();
    return doubled(image);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const at::Tensor& grad = grad_outputs[0];
    const auto sizes = context->saved_data["sizes"].toIntVector();
    // LibTorch's gradient is differentiable.
    return {at::GradMode::is_enabled()
                ? at::upsample_nearest2d_backward(grad, {2 * sizes[2], 2 * sizes[3]}, sizes)
                : halved(grad)};
  }
};

}  // namespace

inline namespace internal {

at::Tensor upsample_double(const at::Tensor& image) {
  const bool fits = image.is_cpu() && image.scalar_type() == at::kFloat && image.layout() == at::kStrided &&
                    image.dim() == 4 && image.is_contiguous() && image.numel() > 0 && fused_cpu() &&
                    cpu::kernels_available();
  if (!fits) return at::upsample_nearest2d(image, {2 * image.size(2), 2 * image.size(3)});
  return at::GradMode::is_enabled() && image.requires_grad() ? UpsampleFunction::apply(image)
                                                             : doubled(image);
}

}  // namespace internal
}  // namespace diffusers
