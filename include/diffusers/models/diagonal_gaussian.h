#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>

namespace diffusers {

/// Normal distributions of independent elements, as an autoencoder's encoder gives them (Kingma and Welling
/// 2014; diffusers `DiagonalGaussianDistribution`). Everything is differentiable in `parameters`.
class DiagonalGaussianDistribution {
 public:
  /// @param parameters `[B, 2 C, ...]`, floating: the means, then the logarithms of the variances, which are
  ///   kept in [-30, 20]
  /// @param deterministic variance and standard deviation are 0
  /// @throws TensorError if the second dimension of parameters cannot be halved
  explicit DiagonalGaussianDistribution(const Tensor& parameters, bool deterministic = false);

  /// mean + std z with z from N(0, I), shape and dtype of mean. A CPU generator draws what Python draws from
  /// its seed.
  Tensor sample(const std::optional<Generator>& generator = std::nullopt) const;
  /// The mean.
  const Tensor& mode() const { return mean; }
  /// The divergence KL(this || N(0, I)), `[B]`; summed over dimensions 1, 2 and 3, which parameters must
  /// have. A deterministic one gives `[0]`, as in Python.
  Tensor kl() const;
  /// KL(this || other), `[B]`
  Tensor kl(const DiagonalGaussianDistribution& other) const;
  /// The negative logarithm of the density at `sample`, summed over `dims`.
  /// @param sample shape of mean, or one that broadcasts with it
  Tensor nll(const Tensor& sample, const std::vector<int64_t>& dims = {1, 2, 3}) const;

  Tensor parameters;
  Tensor mean;    ///< `[B, C, ...]`
  Tensor logvar;  ///< `[B, C, ...]`
  bool deterministic = false;
  Tensor std;  ///< exp(logvar / 2)
  Tensor var;  ///< exp(logvar)
};

}  // namespace diffusers
