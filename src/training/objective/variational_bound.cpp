#include <cmath>
#include <numbers>
#include <vector>

#include <diffusers/training/variational_bound.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/objective/per_sample.h"

namespace diffusers {
namespace {

/// The distribution function of the standard normal distribution.
Tensor normal_cdf(const Tensor& x) { return 0.5 * at::special_erfc(x * -std::numbers::sqrt2 / 2); }

}  // namespace

VarianceType variance_type_of(const Scheduler& scheduler) {
  return scheduler.variance_type().value_or(VarianceType::kFixedSmall);
}

Tensor normal_kl(const Tensor& mean_1, const Tensor& logvar_1, const Tensor& mean_2, const Tensor& logvar_2) {
  return 0.5 * (logvar_2 - logvar_1 - 1 + (logvar_1 - logvar_2).exp() +
                (mean_1 - mean_2).square() * (-logvar_2).exp());
}

Tensor discretized_gaussian_log_likelihood(const Tensor& x, const Tensor& means, const Tensor& log_scales) {
  constexpr double kHalfLevel = 1.0 / 255;
  // Keeps the logarithm finite if the probability of a level underflows.
  constexpr double kLeast = 1e-12;
  const Tensor precision = (-log_scales).exp();
  const Tensor above = (x - means + kHalfLevel) * precision;
  const Tensor below = (x - means - kHalfLevel) * precision;
  const Tensor inside = (normal_cdf(above) - normal_cdf(below)).clamp_min(kLeast).log();
  const Tensor lowest = normal_cdf(above).clamp_min(kLeast).log();
  const Tensor highest = normal_cdf(-below).clamp_min(kLeast).log();
  return at::where(x < -1 + kHalfLevel, lowest, at::where(x > 1 - kHalfLevel, highest, inside));
}

VariationalBound::VariationalBound(const Scheduler& scheduler) : variance_type_(variance_type_of(scheduler)) {
  prediction_type_ = scheduler.prediction_type();
  require<ConfigError>(
      prediction_type_ == PredictionType::kEpsilon || prediction_type_ == PredictionType::kSample ||
          prediction_type_ == PredictionType::kVPrediction,
      "prediction_type is \"{}\": there is no variational bound for it", enum_name(prediction_type_));
  has_learned_variance_ =
      variance_type_ == VarianceType::kLearned || variance_type_ == VarianceType::kLearnedRange;

  const Tensor alphas_cumprod = scheduler.alphas_cumprod();
  require<ConfigError>(alphas_cumprod.defined() && alphas_cumprod.size(0) > 1,
                       "VariationalBound: {} has no alphas_cumprod of 2 timesteps or more",
                       scheduler.class_name());
  const Tensor abar = alphas_cumprod.to(at::kCPU, at::kDouble);
  require<ConfigError>(
      prediction_type_ != PredictionType::kEpsilon || abar.min().item<double>() > 0,
      "prediction_type is \"epsilon\", but alphas_cumprod reaches 0 (rescale_betas_zero_snr): x_0 does not "
      "follow from epsilon there; use \"v_prediction\" or \"sample\"");

  const Tensor before = at::cat({at::ones({1}, at::kDouble), abar.narrow(0, 0, abar.size(0) - 1)});
  const Tensor alphas = abar / before;
  const Tensor betas = 1 - alphas;
  // Ho et al., eq. 6 and 7. beta~_0 is 0; the decoder uses beta~_1.
  const Tensor posterior_x0 = before.sqrt() * betas / (1 - abar);
  const Tensor posterior_xt = alphas.sqrt() * (1 - before) / (1 - abar);
  const Tensor posterior_variance = betas * (1 - before) / (1 - abar);
  posterior_variance[0].copy_(posterior_variance[1]);
  const Tensor large_variance = betas.clone();
  large_variance[0].copy_(posterior_variance[1]);
  tables_ =
      DeviceTable(at::stack({abar.sqrt(), (1 - abar).sqrt(), posterior_x0, posterior_xt, posterior_variance,
                             posterior_variance.log(), betas.log(), large_variance.log()}));
  require<ConfigError>(tables_.host().isfinite().all().item<bool>(),
                       "VariationalBound: the posterior of this noise schedule is not defined at every "
                       "timestep; alphas_cumprod runs from {} to {}",
                       abar.max().item<double>(), abar.min().item<double>());
}

Tensor VariationalBound::gather(Row row, const Tensor& timesteps, const Tensor& like) const {
  const Tensor values = tables_.on(timesteps.device(), at::kDouble).select(0, row).index({timesteps});
  return over_samples(values, like);
}

Tensor VariationalBound::predicted_x0(const Tensor& prediction, const Tensor& x_t,
                                      const Tensor& timesteps) const {
  if (prediction_type_ == PredictionType::kSample) return prediction;
  const Tensor signal = gather(kSignal, timesteps, x_t);
  const Tensor noise = gather(kNoise, timesteps, x_t);
  if (prediction_type_ == PredictionType::kEpsilon) return (x_t - noise * prediction) / signal;
  return signal * x_t - noise * prediction;
}

Tensor VariationalBound::log_variance(const Tensor& variance_output, const Tensor& timesteps,
                                      const Tensor& like) const {
  switch (variance_type_) {
    case VarianceType::kFixedSmall:
    case VarianceType::kFixedSmallLog:
      return gather(kLogPosteriorVariance, timesteps, like);
    case VarianceType::kFixedLarge:
    case VarianceType::kFixedLargeLog:
      return gather(kLogLargeVariance, timesteps, like);
    case VarianceType::kLearned: {
      const Tensor least = gather(kPosteriorVariance, timesteps, like);
      return (variance_output + (least - variance_output).clamp_min(0).detach()).log();
    }
    case VarianceType::kLearnedRange: {
      // Nichol and Dhariwal, eq. 15.
      const Tensor fraction = (variance_output + 1) / 2;
      return fraction * gather(kLogBeta, timesteps, like) +
             (1 - fraction) * gather(kLogPosteriorVariance, timesteps, like);
    }
  }
  fail<ConfigError>("variance_type has the value {}, expected a VarianceType",
                    static_cast<int>(variance_type_));
}

Tensor VariationalBound::term(const Tensor& model_output, const Tensor& x0, const Tensor& x_t,
                              const Tensor& timesteps) const {
  Tensor prediction = model_output;
  Tensor variance_output;
  if (has_learned_variance_) {
    require<TensorError>(
        model_output.dim() == x0.dim() && x0.dim() > 1 && model_output.size(1) == 2 * x0.size(1),
        "variance_type is \"{}\": the model's output is {}, expected twice the channels of x0 {}",
        enum_name(variance_type_), describe(model_output), describe(x0));
    const std::vector<Tensor> halves = model_output.chunk(2, 1);
    prediction = halves[0];
    variance_output = halves[1];
  }
  require<TensorError>(prediction.sizes() == x0.sizes() && x_t.sizes() == x0.sizes(),
                       "VariationalBound: the prediction is {}, x_t is {}, x0 is {}; expected one shape",
                       describe(prediction), describe(x_t), describe(x0));

  const Tensor x0_share = gather(kPosteriorX0, timesteps, x0);
  const Tensor xt_share = gather(kPosteriorXt, timesteps, x0);
  const Tensor true_mean = x0_share * x0 + xt_share * x_t;
  const Tensor mean = x0_share * predicted_x0(prediction, x_t, timesteps) + xt_share * x_t;
  const Tensor log_var = log_variance(variance_output, timesteps, x0);

  const Tensor kl = normal_kl(true_mean, gather(kLogPosteriorVariance, timesteps, x0), mean, log_var);
  const Tensor decoder = -discretized_gaussian_log_likelihood(x0, mean, 0.5 * log_var);
  const Tensor nats = at::where(timesteps == 0, mean_of_each_sample(decoder.expand_as(x0)),
                                mean_of_each_sample(kl.expand_as(x0)));
  return nats / std::numbers::ln2;
}

Tensor VariationalBound::prior(const Tensor& x0) const {
  const double abar = std::pow(tables_.host()[kSignal][-1].item<double>(), 2);
  const Tensor zero = at::zeros_like(x0);
  return mean_of_each_sample(
             normal_kl(std::sqrt(abar) * x0, at::full_like(x0, std::log1p(-abar)), zero, zero)) /
         std::numbers::ln2;
}

BitsPerDimension VariationalBound::operator()(
    const std::function<Tensor(const Tensor&, const Tensor&)>& model, const Tensor& x0,
    const std::optional<Generator>& generator) const {
  const at::NoGradGuard no_grad;
  std::vector<Tensor> terms;
  for (int64_t step = 0; step < num_train_timesteps(); ++step) {
    const Tensor t = at::full({x0.size(0)}, step, x0.options().dtype(at::kLong));
    const Tensor noise = randn_tensor(x0.sizes(), generator, x0.device(), x0.scalar_type());
    const Tensor x_t = gather(kSignal, t, x0) * x0 + gather(kNoise, t, x0) * noise;
    terms.push_back(term(model(x_t, t), x0, x_t, t));
  }
  BitsPerDimension result;
  result.terms = at::stack(terms, 1);
  result.prior = prior(x0);
  result.total = result.prior + result.terms.sum(1);
  return result;
}

}  // namespace diffusers
