#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>

namespace diffusers {

/// A normal distribution with independent elements, the output of an autoencoder's encoder (Kingma and
/// Welling 2014; diffusers `DiagonalGaussianDistribution`). Every result is differentiable with respect to
/// `parameters`.
class DiagonalGaussianDistribution {
 public:
  /// Makes the distribution.
  /// @param parameters `[B, 2 C, ...]`, floating: the means, then the logarithms of the variances, which are
  ///   clamped to [-30, 20]
  /// @param deterministic sets variance and standard deviation to 0
  /// @throws TensorError if the second dimension of parameters cannot be halved
  explicit DiagonalGaussianDistribution(const Tensor& parameters, bool deterministic = false);

  /// Samples mean + std z with z from N(0, I). With a CPU generator the sample equals Python's for the same
  /// seed.
  /// @param generator source of z; nullopt: the global generator of the device
  /// @return shape and dtype of mean
  Tensor sample(const std::optional<Generator>& generator = std::nullopt) const;
  /// @return the mean
  const Tensor& mode() const { return mean; }
  /// Computes the divergence KL(this || N(0, I)), summed over dimensions 1, 2 and 3.
  /// @return `[B]`; one zero, `[1]`, if the distribution is deterministic, as in Python
  /// @throws TensorError unless `parameters` has four dimensions
  Tensor kl() const;
  /// Computes the divergence KL(this || other).
  /// @param other a distribution of the same shape
  /// @return `[B]`; one zero, `[1]`, if the distribution is deterministic, as in Python
  /// @throws TensorError naming both shapes if they do not broadcast
  Tensor kl(const DiagonalGaussianDistribution& other) const;
  /// Computes the negative logarithm of the density.
  /// @param sample point at which the density is computed; broadcasts with mean
  /// @param dims dimensions that are summed
  /// @return shape of mean without `dims`; one zero, `[1]`, if the distribution is deterministic, as in
  ///   Python
  /// @throws TensorError naming both shapes if they do not broadcast, or a dimension that does not exist
  Tensor nll(const Tensor& sample, const std::vector<int64_t>& dims = {1, 2, 3}) const;

  Tensor parameters;           ///< `[B, 2 C, ...]`, as given
  Tensor mean;                 ///< `[B, C, ...]`
  Tensor logvar;               ///< `[B, C, ...]`, clamped to [-30, 20]
  bool deterministic = false;  ///< as given
  Tensor std;                  ///< exp(logvar / 2); 0 if deterministic
  Tensor var;                  ///< exp(logvar); 0 if deterministic
};

}  // namespace diffusers
