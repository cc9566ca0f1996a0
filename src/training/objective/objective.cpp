#include <cmath>
#include <limits>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/training/objective.h>

#include <ATen/ATen.h>

#include "core/per_sample.h"
#include "core/require.h"
#include "training/objective/forward_process.h"
#include "training/objective/snr_weights.h"

namespace diffusers {
namespace {

void require_timesteps(const Tensor& timesteps, const Scheduler& scheduler, PredictionType prediction_type,
                       const char* where) {
  // Flow matching takes sigma T, which need not be whole and reaches T.
  const bool is_flow = prediction_type == PredictionType::kFlowPrediction;
  require<TensorError>(
      timesteps.defined() && (at::isIntegralType(timesteps.scalar_type(), /*includeBool=*/false) ||
                              (is_flow && at::isFloatingType(timesteps.scalar_type()))),
      "{}: timesteps must be an integral tensor, got {}", where, describe(timesteps));
  // A range check on a CUDA tensor would stall the device.
  if (!timesteps.is_cpu() || timesteps.numel() == 0) return;
  const int64_t steps = scheduler.num_train_timesteps();
  const auto low = timesteps.min().item<double>();
  const auto high = timesteps.max().item<double>();
  const auto end = static_cast<double>(is_flow ? steps : steps - 1);
  require<TensorError>(low >= 0 && high <= end, "{}: timesteps run from {} to {}, the scheduler has 0 to {}",
                       where, low, high, end);
}

void require_like(const Tensor& tensor, const Tensor& reference, const char* name,
                  const char* reference_name) {
  require<TensorError>(
      tensor.defined() && at::isFloatingType(tensor.scalar_type()) && tensor.sizes() == reference.sizes() &&
          tensor.device() == reference.device(),
      "diffusion_loss: {} is {}, {} is {}; both must be floating, of one shape, on one device", name,
      describe(tensor), reference_name, describe(reference));
}

Tensor alphas_cumprod_of(const Scheduler& scheduler, const char* where) {
  const Tensor alphas_cumprod = scheduler.alphas_cumprod();
  require<ConfigError>(alphas_cumprod.defined(), "{}: {} has no alphas_cumprod", where,
                       scheduler.class_name());
  return alphas_cumprod.to(at::kCPU);
}

/// huber_c of each timestep, float64.
Tensor huber_constants(const Scheduler& scheduler, const DiffusionLossOptions& options) {
  const double c = options.huber_c;
  if (options.huber_schedule == HuberSchedule::kExponential) {
    const int64_t steps = scheduler.num_train_timesteps();
    return at::exp(at::arange(steps, at::kDouble) * (std::log(c) / static_cast<double>(steps)));
  }
  const auto [signal, noise] = signal_and_noise(alphas_cumprod_of(scheduler, "huber_schedule = \"snr\""));
  return (1 - c) / (1 + (noise / signal).sqrt()).square() + c;
}

/// (1 - sigma)^2 and sigma^2 of timesteps that are sigma T.
SignalAndNoise flow_levels(const Tensor& timesteps, int64_t num_train_timesteps) {
  const Tensor sigma = timesteps.to(at::kDouble) / static_cast<double>(num_train_timesteps);
  // At a sigma of exactly 0 the SNR is infinite, and so is 0 / 0 away.
  constexpr double kLeastNoise = 1e-20;
  return {(1 - sigma).square(), sigma.square().clamp_min(kLeastNoise)};
}

/// The shape that broadcasts a number for each sample over `like`.
Tensor per_sample(const Tensor& values, const Tensor& like) {
  return broadcast_per_sample(values.to(like.scalar_type()), like.dim());
}

Tensor mean_of_each_sample(const Tensor& losses) {
  return losses.dim() > 1 ? losses.flatten(1).mean(1) : losses;
}

}  // namespace

Tensor DiffusionObjective::Table::at(const Tensor& timesteps) const {
  if (!on_device.defined() || on_device.device() != timesteps.device())
    on_device = values.to(timesteps.device());
  return on_device.index({timesteps});
}

DiffusionObjective::DiffusionObjective(const Scheduler& scheduler, const DiffusionLossOptions& options)
    : scheduler_(scheduler.clone()), schedule_(variance_preserving_schedule(scheduler)), options_(options) {
  prediction_type_ = scheduler.prediction_type();
  require<ConfigError>(prediction_type_ != PredictionType::kOriginalSample,
                       "prediction_type is \"{}\": there is no training objective for it",
                       enum_name(prediction_type_));
  require<ConfigError>(std::isfinite(options_.huber_c) && options_.huber_c > 0,
                       "huber_c is {}, expected a finite number above 0", options_.huber_c);
  validate_weighting(options_);
  const LossWeighting weighting = weighting_of(options_);
  const bool has_elbo = options_.original_elbo_weight > 0;

  const bool is_flow = prediction_type_ == PredictionType::kFlowPrediction;
  const bool is_huber = options_.loss_type == LossType::kHuber || options_.loss_type == LossType::kSmoothL1;
  if (is_huber && options_.huber_schedule != HuberSchedule::kConstant) {
    require<ConfigError>(!is_flow, "huber_schedule is \"{}\", which is not defined for \"flow_prediction\"",
                         enum_name(options_.huber_schedule));
    huber_.values = huber_constants(scheduler, options_);
  }
  if (is_flow) {
    require<ConfigError>(!has_elbo,
                         "original_elbo_weight is {}, but prediction_type \"flow_prediction\" has no "
                         "variational bound over timesteps",
                         options_.original_elbo_weight);
    require<ConfigError>(!options_.vlb_weight, "vlb_weight is {}, but nothing is learned of the variance",
                         options_.vlb_weight.value_or(0));
    return;
  }

  // Python's DDPMScheduler alone has a variance_type that a model can be trained for.
  const VarianceType variance = variance_type_of(scheduler);
  if (variance == VarianceType::kLearned || variance == VarianceType::kLearnedRange)
    bound_.emplace(scheduler);
  require<ConfigError>(bound_ || !options_.vlb_weight,
                       "vlb_weight is {}, but the scheduler's variance_type is not learned or learned_range",
                       options_.vlb_weight.value_or(0));

  const bool is_weighted = weighting != LossWeighting::kNone || has_elbo;
  const bool is_epsilon = prediction_type_ == PredictionType::kEpsilon;
  if (!is_weighted && !is_epsilon) return;
  const SignalAndNoise levels = signal_and_noise(alphas_cumprod_of(scheduler, "diffusion_loss"));
  const bool ends_at_zero = levels.signal.min().item<double>() <= 0;
  if (!is_weighted) {
    if (ends_at_zero)
      warn_once(
          "prediction_type \"epsilon\" with a noise schedule that ends at an SNR of zero: samplers divide by "
          "zero at the last timestep; use \"v_prediction\" or \"sample\"");
    return;
  }
  const std::string choice = weighting == LossWeighting::kNone
                                 ? fmt::format("original_elbo_weight is {}", options_.original_elbo_weight)
                             : options_.snr_gamma ? fmt::format("snr_gamma is {}", *options_.snr_gamma)
                                                  : fmt::format("weighting is \"{}\"", enum_name(weighting));
  require<ConfigError>(
      !(is_epsilon && ends_at_zero),
      "{} and prediction_type is \"epsilon\", but alphas_cumprod reaches 0 (rescale_betas_zero_snr): epsilon "
      "has no SNR weight at an SNR of zero; use \"v_prediction\" or \"sample\"",
      choice);
  if (weighting != LossWeighting::kNone) weights_.values = snr_weights(levels, prediction_type_, options_);
  if (has_elbo) elbo_weights_.values = elbo_weights(levels, prediction_type_);
  for (const Tensor& values : {weights_.values, elbo_weights_.values})
    require<ConfigError>(
        !values.defined() || values.isfinite().all().item<bool>(),
        "{}: the weights of this noise schedule are not all finite; alphas_cumprod runs from "
        "{} to {}",
        choice, levels.signal.max().item<double>(), levels.signal.min().item<double>());
}

Tensor DiffusionObjective::target(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const {
  switch (prediction_type_) {
    case PredictionType::kEpsilon:
      return noise;
    case PredictionType::kSample:
      return x0;
    case PredictionType::kVPrediction:
      return schedule_ ? schedule_->get_velocity(x0, noise, timesteps)
                       : scheduler_->get_velocity(x0, noise, timesteps);
    case PredictionType::kFlowPrediction:
      return noise - x0;
    case PredictionType::kOriginalSample:
      break;
  }
  fail<ConfigError>("prediction_type is \"{}\": there is no training objective for it",
                    enum_name(prediction_type_));
}

Tensor DiffusionObjective::weight_of_squared_error(const Tensor& timesteps) const {
  if (weights_.values.defined()) return weights_.at(timesteps);
  if (prediction_type_ == PredictionType::kFlowPrediction && weighting_of(options_) != LossWeighting::kNone)
    return snr_weights(flow_levels(timesteps, scheduler_->num_train_timesteps()), prediction_type_, options_);
  return {};
}

Tensor DiffusionObjective::weights(const Tensor& timesteps) const {
  require_timesteps(timesteps, *scheduler_, prediction_type_, "weights");
  const Tensor weight = weight_of_squared_error(timesteps);
  return weight.defined() ? weight : at::ones(timesteps.sizes(), timesteps.options().dtype(at::kDouble));
}

Tensor DiffusionObjective::element_losses(const Tensor& difference, const Tensor& timesteps) const {
  if (options_.loss_type == LossType::kL2) return difference.square();
  if (options_.loss_type == LossType::kL1) return difference.abs();
  const Tensor c = huber_.values.defined() ? per_sample(huber_.at(timesteps), difference)
                                           : at::full({}, options_.huber_c, difference.options());
  const Tensor losses = 2 * ((difference.square() + c.square()).sqrt() - c);
  return options_.loss_type == LossType::kHuber ? losses * c : losses;
}

Tensor DiffusionObjective::variational_loss(const Tensor& model_output, const Tensor& x0, const Tensor& noise,
                                            const Tensor& timesteps) const {
  const std::vector<Tensor> halves = model_output.chunk(2, 1);
  const Tensor mean_held_fixed = at::cat({halves[0].detach(), halves[1]}, 1);
  const Tensor x_t =
      schedule_ ? schedule_->add_noise(x0, noise, timesteps) : scheduler_->add_noise(x0, noise, timesteps);
  const double weight =
      options_.vlb_weight.value_or(static_cast<double>(scheduler_->num_train_timesteps()) / 1000);
  return weight * bound_->term(mean_held_fixed, x0, x_t, timesteps);
}

Tensor DiffusionObjective::operator()(const Tensor& model_output, const Tensor& x0, const Tensor& noise,
                                      const Tensor& timesteps, const Tensor& log_variance) const {
  require<TensorError>(x0.defined() && at::isFloatingType(x0.scalar_type()) && x0.dim() >= 1,
                       "diffusion_loss: x0 must be a floating tensor [B, ...], got {}", describe(x0));
  require_like(noise, x0, "noise", "x0");
  require_timesteps(timesteps, *scheduler_, prediction_type_, "diffusion_loss");
  require<TensorError>(timesteps.dim() == 1 && timesteps.size(0) == x0.size(0),
                       "diffusion_loss: timesteps are {}, expected one for each of the {} samples of x0 {}",
                       describe(timesteps), x0.size(0), describe(x0));
  Tensor prediction = model_output;
  if (bound_) {
    require<TensorError>(
        model_output.defined() && model_output.dim() == x0.dim() && x0.dim() > 1 &&
            model_output.size(1) == 2 * x0.size(1),
        "diffusion_loss: model_output is {}, expected twice the channels of x0 {}, since the "
        "scheduler's variance_type is learned",
        describe(model_output), describe(x0));
    prediction = model_output.narrow(1, 0, x0.size(1));
  }
  require_like(prediction, x0, "model_output", "x0");
  const Tensor t = timesteps.to(x0.device());

  const at::ScalarType dtype =
      model_output.scalar_type() == at::kDouble || x0.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor difference = prediction.to(dtype) - target(x0, noise, t).to(dtype);
  const Tensor unweighted = mean_of_each_sample(element_losses(difference, t));

  const Tensor weight = weight_of_squared_error(t);
  Tensor losses = weight.defined() ? unweighted * weight.to(dtype) : unweighted;
  if (log_variance.defined()) {
    require<TensorError>(
        log_variance.sizes() == t.sizes() && log_variance.device() == x0.device(),
        "diffusion_loss: log_variance is {}, expected one value for each of the timesteps {}",
        describe(log_variance), describe(t));
    const Tensor u = log_variance.to(dtype);
    losses = losses * (-u).exp() + u;
  }
  if (options_.l_simple_weight != 1) losses = options_.l_simple_weight * losses;
  if (elbo_weights_.values.defined())
    losses = losses + options_.original_elbo_weight * elbo_weights_.at(t).to(dtype) * unweighted;
  if (bound_) losses = losses + variational_loss(model_output.to(dtype), x0.to(dtype), noise.to(dtype), t);

  switch (options_.reduction) {
    case LossReduction::kMean:
      return losses.mean();
    case LossReduction::kSum:
      return losses.sum();
    case LossReduction::kNone:
      break;
  }
  return losses;
}

Tensor diffusion_loss(const Scheduler& scheduler, const Tensor& model_output, const Tensor& x0,
                      const Tensor& noise, const Tensor& timesteps, const DiffusionLossOptions& options) {
  return DiffusionObjective(scheduler, options)(model_output, x0, noise, timesteps);
}

Tensor compute_snr(const Scheduler& scheduler, const Tensor& timesteps) {
  require_timesteps(timesteps, scheduler, PredictionType::kEpsilon, "compute_snr");
  const Tensor alphas_cumprod = alphas_cumprod_of(scheduler, "compute_snr");
  // In Python's order of operations: the float32 roundings are part of the published numbers.
  const Tensor alpha = alphas_cumprod.sqrt().to(timesteps.device()).index({timesteps}).to(at::kFloat);
  const Tensor sigma = (1.0 - alphas_cumprod).sqrt().to(timesteps.device()).index({timesteps}).to(at::kFloat);
  return (alpha / sigma).square();
}

Tensor compute_density_for_timestep_sampling(std::string_view weighting_scheme, int64_t batch_size,
                                             const TimestepDensityOptions& options) {
  require<ConfigError>(batch_size >= 0, "batch_size is {}, expected 0 or more", batch_size);
  const at::TensorOptions where = at::TensorOptions().device(options.device).dtype(at::kFloat);
  if (weighting_scheme == "logit_normal") {
    require<ConfigError>(options.logit_mean && options.logit_std && *options.logit_std >= 0,
                         "weighting_scheme \"logit_normal\" needs logit_mean and a logit_std of at least 0");
    return at::normal(*options.logit_mean, *options.logit_std, {batch_size}, options.generator, where)
        .sigmoid();
  }
  Tensor u = at::rand({batch_size}, options.generator, where);
  if (weighting_scheme != "mode") return u;
  require<ConfigError>(options.mode_scale.has_value(), "weighting_scheme \"mode\" needs mode_scale");
  return 1 - u - *options.mode_scale * (at::cos(std::numbers::pi * u / 2).square() - 1 + u);
}

Tensor compute_loss_weighting_for_sd3(std::string_view weighting_scheme, const Tensor& sigmas) {
  require<TensorError>(sigmas.defined() && at::isFloatingType(sigmas.scalar_type()),
                       "compute_loss_weighting_for_sd3: sigmas must be a floating tensor, got {}",
                       describe(sigmas));
  if (weighting_scheme == "sigma_sqrt") return sigmas.pow(-2.0).to(at::kFloat);
  if (weighting_scheme == "cosmap") return 2 / (std::numbers::pi * (1 - 2 * sigmas + 2 * sigmas.square()));
  return at::ones_like(sigmas);
}

}  // namespace diffusers
