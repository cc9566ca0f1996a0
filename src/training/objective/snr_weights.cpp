#include "training/objective/snr_weights.h"

#include <cmath>

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/objective/option_fields.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr double kDefaultSnrGamma = 5.0;

void require_above_zero(double value, const char* key) {
  require<ConfigError>(std::isfinite(value) && value > 0, "{} is {}, expected a finite number above 0", key,
                       value);
}

void require_not_negative(double value, const char* key) {
  require<ConfigError>(std::isfinite(value) && value >= 0, "{} is {}, expected a finite number of at least 0",
                       key, value);
}

}  // namespace

SignalAndNoise signal_and_noise(const Tensor& alphas_cumprod) {
  const Tensor signal = alphas_cumprod.to(at::kCPU, at::kDouble);
  return {signal, 1 - signal};
}

Tensor squared_error_factor(const SignalAndNoise& levels, PredictionType prediction_type) {
  switch (prediction_type) {
    case PredictionType::kSample:
      return at::ones_like(levels.noise);
    case PredictionType::kEpsilon:
      return levels.noise / levels.signal;
    case PredictionType::kVPrediction:
    case PredictionType::kFlowPrediction:
      return levels.noise;
    case PredictionType::kOriginalSample:
      break;
  }
  fail<ConfigError>("prediction_type is \"{}\": there is no training objective for it",
                    enum_name(prediction_type));
}

Tensor snr_weights(const SignalAndNoise& levels, PredictionType prediction_type,
                   const DiffusionLossOptions& options) {
  const LossWeighting weighting = weighting_of(options);
  if (weighting == LossWeighting::kNone) return at::ones_like(levels.noise);
  const Tensor& signal = levels.signal;
  const Tensor& noise = levels.noise;
  const Tensor snr = signal / noise;
  const double gamma = snr_gamma_of(options);
  Tensor of_x0;
  switch (weighting) {
    case LossWeighting::kNone:
      break;
    case LossWeighting::kMinSnr:
      of_x0 = snr.clamp_max(gamma);
      break;
    case LossWeighting::kSoftMinSnr:
      of_x0 = signal * gamma / (signal + gamma * noise);
      break;
    case LossWeighting::kP2:
      of_x0 = snr * (options.p2_k + snr).pow(-options.p2_gamma);
      break;
    case LossWeighting::kEdm:
      of_x0 = snr + 1 / (options.sigma_data * options.sigma_data);
      break;
    case LossWeighting::kDebiased:
      of_x0 = snr.sqrt();
      break;
    case LossWeighting::kTruncatedSnr:
      of_x0 = snr.clamp_min(1.0);
      break;
  }
  return of_x0 * squared_error_factor(levels, prediction_type);
}

Tensor elbo_weights(const SignalAndNoise& levels, PredictionType prediction_type) {
  const Tensor snr = levels.signal / levels.noise;
  const int64_t steps = snr.size(0);
  require<ConfigError>(
      steps > 1, "original_elbo_weight: the noise schedule has {} timesteps, expected 2 or more", steps);
  Tensor of_x0 = at::empty_like(snr);
  of_x0.narrow(0, 1, steps - 1).copy_((snr.narrow(0, 0, steps - 1) - snr.narrow(0, 1, steps - 1)) / 2);
  of_x0[0].copy_(of_x0[1] / snr[1] * snr[0]);
  return of_x0 * squared_error_factor(levels, prediction_type);
}

double snr_gamma_of(const DiffusionLossOptions& options) {
  return options.snr_gamma.value_or(kDefaultSnrGamma);
}

LossWeighting weighting_of(const DiffusionLossOptions& options) {
  const bool is_given_by_gamma = options.weighting == LossWeighting::kNone && options.snr_gamma;
  return is_given_by_gamma ? LossWeighting::kMinSnr : options.weighting.value();
}

void validate_loss_options(const DiffusionLossOptions& options) {
  require_options_with_effect(options, kLossOptionEffects);
  const LossWeighting weighting = weighting_of(options);
  const bool takes_gamma = weighting == LossWeighting::kMinSnr || weighting == LossWeighting::kSoftMinSnr;
  if (options.snr_gamma) require_above_zero(*options.snr_gamma, "snr_gamma");
  require<ConfigError>(!options.snr_gamma || takes_gamma,
                       "snr_gamma is {}, but weighting is \"{}\"; only min_snr and soft_min_snr use it",
                       options.snr_gamma.value_or(0), enum_name(weighting));
  require_above_zero(options.huber_c, "huber_c");
  require_not_negative(options.p2_gamma, "p2_gamma");
  require_above_zero(options.p2_k, "p2_k");
  require_above_zero(options.sigma_data, "sigma_data");
  require_not_negative(options.l_simple_weight, "l_simple_weight");
  require_not_negative(options.original_elbo_weight, "original_elbo_weight");
  require<ConfigError>(options.l_simple_weight > 0 || options.original_elbo_weight > 0,
                       "l_simple_weight and original_elbo_weight are both 0: there is nothing to minimise");
  if (options.vlb_weight) require_not_negative(*options.vlb_weight, "vlb_weight");
}

}  // namespace internal
}  // namespace diffusers
