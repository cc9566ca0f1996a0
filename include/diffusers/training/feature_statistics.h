#pragma once

#include <cstdint>
#include <functional>

#include <diffusers/core/tensor.h>

namespace diffusers {

/// Mean and covariance of the features of some images.
struct FeatureStatistics {
  Tensor mean;        ///< `[D]` float64 on the CPU
  Tensor covariance;  ///< `[D, D]` float64 on the CPU, divided by N - 1 as numpy's `cov`
  int64_t count = 0;  ///< number of images, N
};

/// Computes features `[B, D]` of images `[B, C, H, W]`, such as the pooled output of a classifier.
using FeatureNetwork = std::function<Tensor(const Tensor& images)>;

/// Computes mean and covariance in float64.
/// @param features `[N, D]`, floating, of any device, N at least 2
/// @return statistics on the CPU, without a graph
/// @throws TensorError for another shape or dtype, for fewer than 2 rows, and for values that are not finite
FeatureStatistics feature_statistics(const Tensor& features);
/// Computes the statistics of images, a batch at a time, without gradients.
/// @param images `[N, C, H, W]`, N at least 2
/// @param network computes the features; put a module into eval mode before
/// @param batch_size number of images that the network receives at once, at least 1
/// @return statistics on the CPU
/// @throws ConfigError for an empty network or a batch size below 1; TensorError as above
FeatureStatistics feature_statistics(const Tensor& images, const FeatureNetwork& network,
                                     int64_t batch_size = 64);

/// Computes the squared Frechet distance of two normal distributions (Heusel et al. 2017, arXiv 1706.08500):
/// |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)). With the features of Inception it is the FID. For few
/// images the distance is biased upwards; compare distances of equal numbers of images.
/// @param a statistics of one set of images
/// @param b statistics of the other set
/// @return the distance, 0 or more
/// @throws TensorError if a shape does not fit, naming both numbers of features, or if a value is not finite
double frechet_distance(const FeatureStatistics& a, const FeatureStatistics& b);

}  // namespace diffusers
