#pragma once

#include <functional>
#include <optional>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/device_table.h>
#include <diffusers/schedulers/enums.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// The variational bound on -log2 p(x_0) of each sample, in bits per dimension (per element of the sample).
struct BitsPerDimension {
  Tensor total;  ///< `[B]`: sum of the prior and all terms
  Tensor prior;  ///< `[B]`: KL(q(x_T | x_0) || N(0, 1))
  Tensor terms;  ///< `[B, T]`: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)); at t = 0, -log p(x_0 | x_1)
};

/// Computes the variational bound of a denoising diffusion model (Ho et al. 2020, eq. 5; with learned
/// variances, Nichol and Dhariwal 2021, arXiv 2102.09672). The data are images with 256 levels in [-1, 1]. At
/// t = 0, the decoder gives each level a probability.
///
/// The variance of p depends on the scheduler's `variance_type`:
///
/// | variance_type                        | variance                                                        |
/// |--------------------------------------|-----------------------------------------------------------------|
/// | `fixed_small`, `fixed_small_log`     | beta~_t                                                         |
/// | `fixed_large`, `fixed_large_log`     | beta_t                                                          |
/// | `learned`                            | the second half of the model's channels                         |
/// | `learned_range`                      | interpolated between beta~_t and beta_t in the logarithm        |
///
/// For `learned_range`, the second half of the model's channels is the position: -1 means beta~_t and 1 means
/// beta_t.
///
/// For `learned`, a variance below beta~_t is clamped to beta~_t. Its gradient is that of the unclamped
/// value.
class VariationalBound {
 public:
  /// Creates the bound of a scheduler.
  /// @param scheduler noise schedule, prediction type and variance type
  /// @throws ConfigError for a scheduler without alphas_cumprod, for a prediction type without a posterior,
  /// and
  ///         for epsilon prediction with a schedule that ends at an SNR of zero
  explicit VariationalBound(const Scheduler& scheduler);

  /// @return true if the model outputs a variance after its prediction
  bool has_learned_variance() const { return has_learned_variance_; }
  /// @return T, the number of training timesteps
  int64_t num_train_timesteps() const { return tables_.host().size(1); }

  /// Computes the term of the timestep of each sample.
  /// @param model_output `[B, C, ...]`, or `[B, 2 C, ...]` with a learned variance
  /// @param x0 clean samples `[B, C, ...]`, floating
  /// @param x_t noisy samples `[B, C, ...]`
  /// @param timesteps `[B]` integral, each in [0, T)
  /// @return `[B]`, bits per dimension
  /// @throws TensorError if the shapes do not fit
  Tensor term(const Tensor& model_output, const Tensor& x0, const Tensor& x_t, const Tensor& timesteps) const;
  /// Computes the prior term.
  /// @param x0 clean samples `[B, ...]`, floating
  /// @return `[B]`, bits per dimension
  Tensor prior(const Tensor& x0) const;

  /// Computes the whole bound, without gradients. It evaluates the model once for each of the T timesteps.
  /// @param model function of (x_t `[B, C, ...]`, t `[B]` int64) that returns the model's output
  /// @param x0 clean samples `[B, C, ...]`, floating
  /// @param generator source of the noise, on the device of x0; none: the global one
  /// @return the bound and its terms
  BitsPerDimension operator()(const std::function<Tensor(const Tensor&, const Tensor&)>& model,
                              const Tensor& x0, const std::optional<Generator>& generator = {}) const;

 private:
  /// The rows of `tables_`.
  enum Row {
    kSignal,
    kNoise,
    kPosteriorX0,
    kPosteriorXt,
    kPosteriorVariance,
    kLogPosteriorVariance,
    kLogBeta,
    kLogLargeVariance
  };
  Tensor gather(Row row, const Tensor& timesteps, const Tensor& like) const;
  Tensor predicted_x0(const Tensor& prediction, const Tensor& x_t, const Tensor& timesteps) const;
  Tensor log_variance(const Tensor& variance_output, const Tensor& timesteps, const Tensor& like) const;

  PredictionType prediction_type_ = PredictionType::kEpsilon;
  VarianceType variance_type_ = VarianceType::kFixedSmall;
  bool has_learned_variance_ = false;
  DeviceTable tables_;  // float64 [rows, T]
};

/// Returns the `variance_type` of a scheduler.
/// @param scheduler any scheduler
/// @return its variance type; `fixed_small` if its class has none
VarianceType variance_type_of(const Scheduler& scheduler);

/// Computes KL(N(mean_1, exp(logvar_1)) || N(mean_2, exp(logvar_2))) of each element.
/// @param mean_1 mean of the first distribution, floating; all four tensors broadcast against each other
/// @param logvar_1 logarithm of the variance of the first distribution
/// @param mean_2 mean of the second distribution
/// @param logvar_2 logarithm of the variance of the second distribution
/// @return nats, of the broadcast shape
Tensor normal_kl(const Tensor& mean_1, const Tensor& logvar_1, const Tensor& mean_2, const Tensor& logvar_2);

/// Computes the log probability of the level of each element under a Gaussian. The levels are 2 / 255 apart
/// in [-1, 1]. The first and the last level extend to infinity.
/// @param x the elements, in [-1, 1]; all three tensors broadcast against each other
/// @param means means of the Gaussians
/// @param log_scales logarithms of their standard deviations
/// @return nats, of the broadcast shape
Tensor discretized_gaussian_log_likelihood(const Tensor& x, const Tensor& means, const Tensor& log_scales);

}  // namespace diffusers
