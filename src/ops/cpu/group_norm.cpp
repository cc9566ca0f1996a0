#include <algorithm>
#include <vector>

#include <ATen/ATen.h>

#include "core/parallel.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/transpose.h"
#include "ops/group_norm_backends.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

GroupNormShape group_norm_shape(const at::Tensor& x, int64_t num_groups) {
  return {.groups = num_groups,
          .group_channels = x.size(1) / num_groups,
          .spatial = x.numel() / (x.size(0) * x.size(1))};
}

GroupNormParameters group_norm_parameters(const GroupNormCall& call) {
  return {.weight = call.weight.const_data_ptr<float>(),
          .bias = call.bias.const_data_ptr<float>(),
          .image_stride = call.weight.dim() == 2 ? call.weight.size(1) : 0,
          .offset = call.offset.defined() ? call.offset.const_data_ptr<float>() : nullptr,
          .silu = call.silu};
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

NormalizedActivation fused_forward(const at::Tensor& x, const GroupNormCall& call) {
  const auto shape = group_norm_shape(x, call.num_groups);
  const auto parameters = group_norm_parameters(call);
  const int64_t items = x.size(0) * call.num_groups;
  NormalizedActivation result{
      call.tokens ? at::empty({x.size(0), shape.spatial, x.size(1)}, x.options()) : at::empty_like(x),
      at::empty({items}, x.options()), at::empty({items}, x.options())};
  const auto* from = x.const_data_ptr<float>();
  auto* to = result.y.mutable_data_ptr<float>();
  const GroupNormStatistics statistics{result.mean.mutable_data_ptr<float>(),
                                       result.rstd.mutable_data_ptr<float>()};
  parallel_for(0, items, group_norm_grain(shape), [&](int64_t begin, int64_t end) {
    group_norm_forward(shape, parameters, call.eps, from, call.tokens ? nullptr : to, statistics, begin, end);
  });
  if (call.tokens)
    for_each_transpose_item(x.size(0), x.size(1), shape.spatial, [&](int64_t begin, int64_t end) {
      normalize_transposed(shape, parameters, from, statistics, to, begin, end);
    });
  return result;
}

at::Tensor fused_apply(const at::Tensor& x, const GroupNormCall& call, const at::Tensor& mean,
                       const at::Tensor& rstd) {
  const auto shape = group_norm_shape(x, call.num_groups);
  auto parameters = group_norm_parameters(call);
  parameters.has_statistics = true;
  at::Tensor y = at::empty_like(x);
  const auto* from = x.const_data_ptr<float>();
  auto* to = y.mutable_data_ptr<float>();
  // The kernel only reads these statistics.
  const GroupNormStatistics statistics{mean.mutable_data_ptr<float>(), rstd.mutable_data_ptr<float>()};
  parallel_for(0, x.size(0) * call.num_groups, group_norm_grain(shape), [&](int64_t begin, int64_t end) {
    group_norm_forward(shape, parameters, call.eps, from, to, statistics, begin, end);
  });
  return y;
}

GroupNormGradients fused_backward(const at::Tensor& grad_y, const at::Tensor& x, const GroupNormCall& call,
                                  const at::Tensor& mean, const at::Tensor& rstd, bool in_place) {
  const auto shape = group_norm_shape(x, call.num_groups);
  const auto parameters = group_norm_parameters(call);
  const bool offset = call.offset.defined();
  const at::Tensor shares = at::empty({offset ? 3 : 2, x.size(0), x.size(1)}, x.options());
  at::Tensor grad = grad_y.contiguous();
  GroupNormGradients result{
      .x = in_place && !call.tokens ? grad : at::empty_like(x), .weight = shares[0], .bias = shares[1]};
  if (offset) result.offset = shares[2];
  if (call.tokens) {
    transpose_into(grad, at::Tensor(), result.x);
    grad = result.x;
  }
  const auto* grads = grad.const_data_ptr<float>();
  const auto* from = x.const_data_ptr<float>();
  // The backward kernel only reads the statistics.
  const GroupNormStatistics statistics{mean.mutable_data_ptr<float>(), rstd.mutable_data_ptr<float>()};
  const GroupNormGradientViews views{
      result.x.mutable_data_ptr<float>(), result.weight.mutable_data_ptr<float>(),
      result.bias.mutable_data_ptr<float>(), offset ? result.offset.mutable_data_ptr<float>() : nullptr};
  parallel_for(0, x.size(0) * call.num_groups, group_norm_grain(shape), [&](int64_t begin, int64_t end) {
    group_norm_backward(shape, parameters, grads, from, statistics, views, begin, end);
  });
  if (call.weight.dim() == 1) {
    result.weight = sum_images(result.weight);
    result.bias = sum_images(result.bias);
  }
  return result;
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
