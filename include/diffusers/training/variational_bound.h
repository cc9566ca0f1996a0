#pragma once

#include <functional>
#include <optional>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/enums.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// A bound on -log2 p(x_0) for each sample, divided by the number of its elements.
struct BitsPerDimension {
  Tensor total;  ///< `[B]`: the prior and all terms
  Tensor prior;  ///< `[B]`: KL(q(x_T | x_0) || N(0, 1))
  Tensor terms;  ///< `[B, T]`: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)); at t = 0, -log p(x_0 | x_1)
};

/// The variational bound of a denoising diffusion model (Ho et al. 2020, eq. 5; with learned variances,
/// Nichol and Dhariwal 2021, arXiv 2102.09672). Data are images of 256 levels in [-1, 1], as the decoder at t
/// = 0 counts the probability of a level.
///
/// The variance of p is what the scheduler's `variance_type` says: `fixed_small` beta~_t, `fixed_large`
/// beta_t; where it is learned, the second half of the model's channels gives it, as in `scheduler.step`: the
/// variance itself (`learned`), or where it lies between log beta~_t and log beta_t (`learned_range`). A
/// learned variance below beta~_t, which the true one cannot be, counts as beta~_t, with the gradient as if
/// it did not.
class VariationalBound {
 public:
  /// @throws ConfigError for a scheduler without alphas_cumprod, a prediction_type without a posterior, and
  /// for epsilon
  ///         prediction where the schedule ends at an SNR of zero
  explicit VariationalBound(const Scheduler& scheduler);

  bool has_learned_variance() const { return has_learned_variance_; }
  int64_t num_train_timesteps() const { return tables_.size(1); }

  /// The term of each sample's timestep, in bits per dimension, `[B]`.
  /// @param model_output `[B, C, ...]`, or `[B, 2 C, ...]` with a learned variance
  /// @param x0, x_t `[B, C, ...]`; timesteps `[B]` integral
  Tensor term(const Tensor& model_output, const Tensor& x0, const Tensor& x_t, const Tensor& timesteps) const;
  Tensor prior(const Tensor& x0) const;

  /// The whole bound: one evaluation of the model for each of the T timesteps.
  /// @param model maps (x_t `[B, C, ...]`, t `[B]` int64) to its output
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
  Tensor tables_;             // float64 [rows, T]
  mutable Tensor on_device_;  // where the last batch was: a copy a device, not a copy a step
};

/// The scheduler's `variance_type`; `fixed_small` where its class has none.
VarianceType variance_type_of(const Scheduler& scheduler);

/// KL(N(mean_1, exp(logvar_1)) || N(mean_2, exp(logvar_2))) of each element, in nats.
Tensor normal_kl(const Tensor& mean_1, const Tensor& logvar_1, const Tensor& mean_2, const Tensor& logvar_2);

/// log of the probability that a Gaussian gives the level of each element, in nats; the levels are 2 / 255
/// apart in [-1, 1], and the outermost reach to infinity.
Tensor discretized_gaussian_log_likelihood(const Tensor& x, const Tensor& means, const Tensor& log_scales);

}  // namespace diffusers
