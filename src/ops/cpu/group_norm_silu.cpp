#include <algorithm>
#include <vector>

#include <ATen/ATen.h>

#include "core/parallel.h"
#include "ops/cpu/kernels.h"
#include "ops/group_norm_silu_backends.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

GroupNormShape group_norm_shape(const at::Tensor& x, int64_t num_groups) {
  return {.groups = num_groups,
          .group_channels = x.size(1) / num_groups,
          .spatial = x.numel() / (x.size(0) * x.size(1))};
}

int64_t group_norm_grain(const GroupNormShape& shape) {
  constexpr int64_t kWorthAThread = 16384;  // elements
  return std::max<int64_t>(1, kWorthAThread / (shape.group_channels * shape.spatial));
}

/// Sums over the images in a fixed order.
at::Tensor sum_images(const at::Tensor& shares) {
  const int64_t images = shares.size(0);
  const int64_t channels = shares.size(1);
  std::vector<double> sums(static_cast<std::size_t>(channels), 0.0);
  const auto* from = shares.const_data_ptr<float>();
  for (int64_t image = 0; image < images; ++image)
    for (double& sum : sums) sum += static_cast<double>(*from++);
  at::Tensor total = at::empty({channels}, shares.options());
  std::transform(sums.begin(), sums.end(), total.mutable_data_ptr<float>(),
                 [](double sum) { return static_cast<float>(sum); });
  return total;
}

}  // namespace

NormalizedActivation fused_forward(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                                   const at::Tensor& bias, double eps) {
  const auto shape = group_norm_shape(x, num_groups);
  const int64_t items = x.size(0) * num_groups;
  NormalizedActivation result{at::empty_like(x), at::empty({items}, x.options()),
                              at::empty({items}, x.options())};
  const auto* from = x.const_data_ptr<float>();
  const auto* weights = weight.const_data_ptr<float>();
  const auto* biases = bias.const_data_ptr<float>();
  auto* to = result.y.mutable_data_ptr<float>();
  auto* mean = result.mean.mutable_data_ptr<float>();
  auto* rstd = result.rstd.mutable_data_ptr<float>();
  parallel_for(0, items, group_norm_grain(shape), [&](int64_t begin, int64_t end) {
    group_norm_silu_forward(shape, eps, from, weights, biases, to, mean, rstd, begin, end);
  });
  return result;
}

GroupNormSiluGradients fused_backward(const at::Tensor& grad_y, const at::Tensor& x, int64_t num_groups,
                                      const at::Tensor& weight, const at::Tensor& bias,
                                      const at::Tensor& mean, const at::Tensor& rstd) {
  const auto shape = group_norm_shape(x, num_groups);
  const at::Tensor shares = at::empty({2, x.size(0), x.size(1)}, x.options());
  at::Tensor grad_x = at::empty_like(x);
  const at::Tensor grad = grad_y.contiguous();
  const auto* grads = grad.const_data_ptr<float>();
  const auto* from = x.const_data_ptr<float>();
  const auto* weights = weight.const_data_ptr<float>();
  const auto* biases = bias.const_data_ptr<float>();
  const auto* means = mean.const_data_ptr<float>();
  const auto* rstds = rstd.const_data_ptr<float>();
  auto* to = grad_x.mutable_data_ptr<float>();
  auto* grad_weight = shares.mutable_data_ptr<float>();
  auto* grad_bias = grad_weight + x.size(0) * x.size(1);
  parallel_for(0, x.size(0) * num_groups, group_norm_grain(shape), [&](int64_t begin, int64_t end) {
    group_norm_silu_backward(shape, grads, from, weights, biases, means, rstds, to, grad_weight, grad_bias,
                             begin, end);
  });
  return {grad_x, sum_images(shares[0]), sum_images(shares[1])};
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
