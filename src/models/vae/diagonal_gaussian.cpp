#include <algorithm>
#include <cmath>
#include <numbers>

#include <diffusers/models/diagonal_gaussian.h>

#include <ATen/ExpandUtils.h>
#include <torch/types.h>

#include "core/require.h"

namespace diffusers {
namespace {

constexpr double kLeastLogvar = -30.0;
constexpr double kMostLogvar = 20.0;

void require_image_dims(const Tensor& mean) {
  require<TensorError>(mean.dim() >= 4,
                       "kl sums over dimensions 1, 2 and 3, which a distribution over {} lacks",
                       shape_string(mean.sizes()));
}

}  // namespace

DiagonalGaussianDistribution::DiagonalGaussianDistribution(const Tensor& moments, bool is_deterministic)
    : parameters(moments), deterministic(is_deterministic) {
  require<TensorError>(
      parameters.defined() && parameters.dim() >= 2 && parameters.size(1) > 0 &&
          parameters.size(1) % 2 == 0 && parameters.is_floating_point(),
      "parameters: expected floating [B, 2 C, ...], means and logarithms of variances, got {}",
      describe(parameters));
  const auto halves = parameters.chunk(2, 1);
  mean = halves[0];
  logvar = torch::clamp(halves[1], kLeastLogvar, kMostLogvar);
  std = deterministic ? torch::zeros_like(mean) : torch::exp(0.5 * logvar);
  var = deterministic ? std : torch::exp(logvar);
}

Tensor DiagonalGaussianDistribution::sample(const std::optional<Generator>& generator) const {
  return mean + std * randn_tensor(mean.sizes(), generator, mean.device(), mean.scalar_type());
}

Tensor DiagonalGaussianDistribution::kl() const {
  if (deterministic) return torch::zeros({1});
  require_image_dims(mean);
  return 0.5 * torch::sum(torch::pow(mean, 2) + var - 1.0 - logvar, {1, 2, 3});
}

Tensor DiagonalGaussianDistribution::kl(const DiagonalGaussianDistribution& other) const {
  if (deterministic) return torch::zeros({1});
  require_image_dims(mean);
  require<TensorError>(at::are_expandable(mean.sizes(), other.mean.sizes()),
                       "kl between distributions over {} and {}", shape_string(mean.sizes()),
                       shape_string(other.mean.sizes()));
  return 0.5 * torch::sum(torch::pow(mean - other.mean, 2) / other.var + var / other.var - 1.0 - logvar +
                              other.logvar,
                          {1, 2, 3});
}

Tensor DiagonalGaussianDistribution::nll(const Tensor& sample, const std::vector<int64_t>& dims) const {
  if (deterministic) return torch::zeros({1});
  require<TensorError>(sample.defined() && at::are_expandable(sample.sizes(), mean.sizes()),
                       "nll: expected a sample of {}, got {}", shape_string(mean.sizes()), describe(sample));
  const int64_t count = std::max(sample.dim(), mean.dim());
  for (const auto dim : dims) {
    require<TensorError>(dim >= -count && dim < count, "nll: dimension {} is not one of the {} of {}", dim,
                         count, shape_string(mean.sizes()));
  }
  const double log_two_pi = std::log(2.0 * std::numbers::pi);
  return 0.5 * torch::sum(log_two_pi + logvar + torch::pow(sample - mean, 2) / var, dims);
}

}  // namespace diffusers
