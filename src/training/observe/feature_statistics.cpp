#include <algorithm>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/training/feature_statistics.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
namespace {

void check_statistics(const FeatureStatistics& statistics, const char* name) {
  const auto& [mean, covariance, count] = statistics;
  require<TensorError>(
      mean.defined() && covariance.defined() && mean.dim() == 1 && mean.size(0) > 0 &&
          covariance.dim() == 2 && covariance.size(0) == mean.size(0) && covariance.size(1) == mean.size(0),
      "frechet_distance: the {} statistics have a mean {} and a covariance {}, expected [D] and "
      "[D, D]; make them with feature_statistics",
      name, describe(mean), describe(covariance));
  require<TensorError>(mean.isfinite().all().item<bool>() && covariance.isfinite().all().item<bool>(),
                       "frechet_distance: the {} statistics have values that are not finite (NaN or Inf), "
                       "expected finite values",
                       name);
}

/// Square root of a symmetric positive semi-definite matrix. Rounding can make eigenvalues negative.
Tensor symmetric_square_root(const Tensor& matrix) {
  const auto [values, vectors] = at::linalg_eigh(matrix);
  return at::matmul(vectors.mul(values.clamp_min(0).sqrt()), vectors.t());
}

}  // namespace

FeatureStatistics feature_statistics(const Tensor& features) {
  require<TensorError>(features.defined() && features.dim() == 2 && features.size(1) > 0 &&
                           at::isFloatingType(features.scalar_type()),
                       "features are {}, expected a floating tensor [N, D], one row for each image",
                       describe(features));
  require<TensorError>(features.size(0) >= 2,
                       "features are {}, expected at least 2 rows: a covariance needs two images",
                       describe(features));
  const at::NoGradGuard no_grad;
  const Tensor values = features.detach().to(at::kCPU, at::kDouble);
  require<TensorError>(values.isfinite().all().item<bool>(),
                       "features are {} with values that are not finite (NaN or Inf), expected finite values",
                       describe(features));
  const Tensor mean = values.mean(0);
  const Tensor centred = values - mean;
  const auto count = values.size(0);
  return {mean, at::matmul(centred.t(), centred) / static_cast<double>(count - 1), count};
}

FeatureStatistics feature_statistics(const Tensor& images, const FeatureNetwork& network,
                                     int64_t batch_size) {
  require<ConfigError>(static_cast<bool>(network), "feature_statistics: network is an empty function");
  require<ConfigError>(batch_size > 0, "batch_size is {}, expected at least 1", batch_size);
  require<TensorError>(images.defined() && images.dim() > 0 && images.size(0) >= 2,
                       "images are {}, expected [N, C, H, W] with N at least 2", describe(images));
  const at::NoGradGuard no_grad;
  std::vector<Tensor> features;
  for (int64_t first = 0; first < images.size(0); first += batch_size) {
    const Tensor batch = images.slice(0, first, std::min(first + batch_size, images.size(0)));
    features.push_back(network(batch));
    const Tensor& found = features.back();
    require<TensorError>(found.defined() && found.dim() == 2 && found.size(0) == batch.size(0) &&
                             found.size(1) == features.front().size(1),
                         "the feature network gives {} for images {}, expected [{}, D]", describe(found),
                         describe(batch), batch.size(0));
  }
  return feature_statistics(at::cat(features));
}

double frechet_distance(const FeatureStatistics& a, const FeatureStatistics& b) {
  check_statistics(a, "first");
  check_statistics(b, "second");
  require<TensorError>(
      a.mean.size(0) == b.mean.size(0),
      "frechet_distance: the first statistics are of {} features, the second of {}; expected "
      "equal numbers",
      a.mean.size(0), b.mean.size(0));
  const auto in_double = [](const Tensor& tensor) { return tensor.detach().to(at::kCPU, at::kDouble); };
  const Tensor cov_a = in_double(a.covariance);
  const Tensor cov_b = in_double(b.covariance);
  // tr (S_1 S_2)^(1/2) = tr (R S_2 R)^(1/2) with R = S_1^(1/2), whose argument is symmetric.
  const Tensor root = symmetric_square_root(cov_a);
  const Tensor product = at::matmul(at::matmul(root, cov_b), root);
  const Tensor cross = at::linalg_eigvalsh((product + product.t()) / 2).clamp_min(0).sqrt().sum();
  const Tensor means = (in_double(a.mean) - in_double(b.mean)).square().sum();
  return (means + cov_a.trace() + cov_b.trace() - 2 * cross).clamp_min(0).item<double>();
}

}  // namespace diffusers
