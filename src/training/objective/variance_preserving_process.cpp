#include <string>
#include <string_view>

#include <diffusers/core/logging.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/objective/scheduled_process.h"
#include "training/objective/scheduler_facts.h"

namespace diffusers {
inline namespace internal {

VariancePreservingProcess::VariancePreservingProcess(const Scheduler& scheduler,
                                                     PredictionType prediction_type,
                                                     const DiffusionLossOptions& options)
    : ScheduledProcess(scheduler, prediction_type), schedule_(variance_preserving_schedule(scheduler)) {
  if (const Tensor times = log_sigma_times(scheduler); times.defined()) log_sigma_times_ = DeviceTable(times);
  weigh(options);
}

void VariancePreservingProcess::weigh(const DiffusionLossOptions& options) {
  const LossWeighting weighting = weighting_of(options);
  const bool has_bound = options.original_elbo_weight > 0;
  const bool is_weighted = weighting != LossWeighting::kNone || has_bound;
  const bool is_epsilon = prediction_type() == PredictionType::kEpsilon;
  if (!is_weighted && !is_epsilon) return;
  const Tensor alphas_cumprod = scheduler().alphas_cumprod();
  require<ConfigError>(alphas_cumprod.defined(), "diffusion_loss: {} has no alphas_cumprod",
                       scheduler().class_name());
  const SignalAndNoise levels = signal_and_noise(alphas_cumprod);
  const bool ends_at_zero = levels.signal.min().item<double>() <= 0;
  if (!is_weighted) {
    if (ends_at_zero)
      warn_once(
          "prediction_type \"epsilon\" with a noise schedule that ends at an SNR of zero: samplers divide by "
          "zero at the last timestep; use \"v_prediction\" or \"sample\"");
    return;
  }
  const std::string choice = weighting == LossWeighting::kNone
                                 ? fmt::format("original_elbo_weight is {}", options.original_elbo_weight)
                             : options.snr_gamma ? fmt::format("snr_gamma is {}", *options.snr_gamma)
                                                 : fmt::format("weighting is \"{}\"", enum_name(weighting));
  require<ConfigError>(
      !(is_epsilon && ends_at_zero),
      "{} and prediction_type is \"epsilon\", but alphas_cumprod reaches 0 (rescale_betas_zero_snr): epsilon "
      "has no SNR weight at an SNR of zero; use \"v_prediction\" or \"sample\"",
      choice);
  if (weighting != LossWeighting::kNone)
    weights_ = DeviceTable(snr_weights(levels, prediction_type(), options));
  if (has_bound) bound_weights_ = DeviceTable(elbo_weights(levels, prediction_type()));
  for (const Tensor& values : {weights_.host(), bound_weights_.host()})
    require<ConfigError>(
        !values.defined() || values.isfinite().all().item<bool>(),
        "{}: the weights of this noise schedule are not all finite; alphas_cumprod runs from "
        "{} to {}",
        choice, levels.signal.max().item<double>(), levels.signal.min().item<double>());
}

Tensor VariancePreservingProcess::noisy(const Tensor& x0, const Tensor& noise, const Tensor& t) const {
  return schedule_ ? schedule_->add_noise(x0, noise, t) : scheduler().add_noise(x0, noise, t);
}

Tensor VariancePreservingProcess::target(const Tensor& x0, const Tensor& noise, const Tensor& t) const {
  switch (prediction_type()) {
    case PredictionType::kEpsilon:
      return noise;
    case PredictionType::kSample:
      return x0;
    case PredictionType::kVPrediction:
      return schedule_ ? schedule_->get_velocity(x0, noise, t) : scheduler().get_velocity(x0, noise, t);
    case PredictionType::kFlowPrediction:
    case PredictionType::kOriginalSample:
      break;
  }
  fail<ConfigError>("prediction_type is \"{}\", which a variance preserving process has no target for",
                    enum_name(prediction_type()));
}

Tensor VariancePreservingProcess::model_time(const Tensor& t) const {
  if (!log_sigma_times_.host().defined()) return t;
  return log_sigma_times_.on(t.device(), at::kFloat).index_select(0, t.flatten());
}

std::string_view VariancePreservingProcess::log_sigma_reason() const {
  return log_sigma_times_.host().defined() ? "timestep_type \"continuous\"" : "";
}

Tensor VariancePreservingProcess::weight(const Tensor& t) const {
  return weights_.host().defined() ? weights_.on(t.device(), at::kDouble).index({t}) : Tensor();
}

Tensor VariancePreservingProcess::bound_weight(const Tensor& t) const {
  return bound_weights_.host().defined() ? bound_weights_.on(t.device(), at::kDouble).index({t}) : Tensor();
}

TimestepSampler::Draw VariancePreservingProcess::draw(TimestepSampler& sampler, int64_t count,
                                                      const std::optional<Generator>& generator,
                                                      const at::TensorOptions& options) const {
  return sampler.sample(count, generator, options.device());
}

Tensor VariancePreservingProcess::times_at(const Tensor& positions, const at::TensorOptions& options) const {
  const auto steps = static_cast<double>(scheduler().num_train_timesteps());
  return (positions * steps).floor().to(at::kLong).to(options.device());
}

void VariancePreservingProcess::check_times(const Tensor& t, const char* where) const {
  check_timesteps(t, scheduler().num_train_timesteps(), /*is_continuous=*/false, where);
}

std::optional<ForwardProcess::Shares> VariancePreservingProcess::shares() const {
  const Tensor alphas_cumprod = schedule_ ? schedule_->alphas_cumprod() : scheduler().alphas_cumprod();
  return Shares{alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()};
}

}  // namespace internal
}  // namespace diffusers
