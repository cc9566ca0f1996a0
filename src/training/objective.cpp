#include <cmath>
#include <limits>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/training/objective.h>

#include <ATen/ATen.h>

#include "core/format.h"

namespace diffusers {
namespace {

void require_timesteps(const Tensor& timesteps, int64_t num_train_timesteps, const char* where) {
  require<TensorError>(
      timesteps.defined() && at::isIntegralType(timesteps.scalar_type(), /*includeBool=*/false),
      "{}: timesteps must be an integral tensor, got {}", where, describe(timesteps));
  // A range check on a CUDA tensor would stall the device.
  if (!timesteps.is_cpu() || timesteps.numel() == 0) return;
  const auto low = timesteps.min().item<int64_t>();
  const auto high = timesteps.max().item<int64_t>();
  require<TensorError>(low >= 0 && high < num_train_timesteps,
                       "{}: timesteps run from {} to {}, the scheduler has 0 to {}", where, low, high,
                       num_train_timesteps - 1);
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

/// SNR_t in float64 from the float32 table that training uses.
Tensor snr_table(const Tensor& alphas_cumprod) {
  const Tensor abar = alphas_cumprod.to(at::kDouble);
  return abar / (1 - abar);
}

/// Min-SNR-gamma, carried from x_0 space to what the model predicts.
Tensor min_snr_weights(const Tensor& snr, double gamma, PredictionType prediction_type) {
  // Written so that neither an SNR of zero nor an infinite one gives 0 / 0 or inf / inf.
  if (prediction_type == PredictionType::kEpsilon) return (gamma / snr).clamp_max(1.0);
  Tensor in_x0_space = snr.clamp_max(gamma);
  if (prediction_type == PredictionType::kVPrediction) return in_x0_space / (snr + 1);
  return in_x0_space;
}

Tensor huber_constants(const Scheduler& scheduler, const DiffusionLossOptions& options) {
  const double c = options.huber_c;
  if (options.huber_schedule == HuberSchedule::kExponential) {
    const int64_t steps = scheduler.num_train_timesteps();
    return at::exp(at::arange(steps, at::kDouble) * (std::log(c) / static_cast<double>(steps)));
  }
  const Tensor sigma = snr_table(alphas_cumprod_of(scheduler, "huber_schedule = \"snr\"")).pow(-0.5);
  return (1 - c) / (1 + sigma).square() + c;
}

}  // namespace

DiffusionObjective::DiffusionObjective(const Scheduler& scheduler, const DiffusionLossOptions& options)
    : scheduler_(scheduler.clone()), options_(options) {
  const std::string name = scheduler.prediction_type_name();
  prediction_type_ = enum_from_name<PredictionType>(name, "prediction_type");
  require<ConfigError>(prediction_type_ != PredictionType::kOriginalSample,
                       "prediction_type is \"{}\": there is no training objective for it", name);

  const bool is_huber = options_.loss_type == LossType::kHuber || options_.loss_type == LossType::kSmoothL1;
  require<ConfigError>(std::isfinite(options_.huber_c) && options_.huber_c > 0,
                       "huber_c is {}, expected a finite number above 0", options_.huber_c);
  if (is_huber && options_.huber_schedule != HuberSchedule::kConstant)
    huber_table_ = huber_constants(scheduler, options_).to(at::kFloat);

  if (prediction_type_ == PredictionType::kFlowPrediction) {
    require<ConfigError>(!options_.snr_gamma,
                         "snr_gamma is {}: min-SNR weighting is not defined for prediction_type "
                         "\"flow_prediction\"",
                         options_.snr_gamma.value_or(0));
    return;
  }
  const bool is_epsilon = prediction_type_ == PredictionType::kEpsilon;
  if (!options_.snr_gamma && !is_epsilon) return;

  const Tensor alphas_cumprod = alphas_cumprod_of(scheduler, "diffusion_loss");
  const Tensor snr = snr_table(alphas_cumprod);
  const bool ends_at_zero = snr.numel() > 0 && snr.min().item<double>() <= 0;
  if (options_.snr_gamma) {
    const double gamma = *options_.snr_gamma;
    require<ConfigError>(std::isfinite(gamma) && gamma > 0,
                         "snr_gamma is {}, expected a finite number above 0", gamma);
    require<ConfigError>(
        !(is_epsilon && ends_at_zero),
        "snr_gamma is {} and prediction_type is \"epsilon\", but alphas_cumprod reaches 0 "
        "(rescale_betas_zero_snr): epsilon has no SNR weight at an SNR of zero; use \"v_prediction\" or "
        "\"sample\"",
        gamma);
    weight_table_ = min_snr_weights(snr, gamma, prediction_type_).to(at::kFloat);
    require<ConfigError>(weight_table_.isfinite().all().item<bool>(),
                         "snr_gamma is {}: the weights of this noise schedule "
                         "are not all finite; alphas_cumprod runs from {} to {}",
                         gamma, alphas_cumprod.max().item<double>(), alphas_cumprod.min().item<double>());
  } else if (ends_at_zero) {
    warn_once(
        "prediction_type \"epsilon\" with a noise schedule that ends at an SNR of zero: samplers divide by "
        "zero at "
        "the last timestep; use \"v_prediction\" or \"sample\"");
  }
}

Tensor DiffusionObjective::gather(const Tensor& table, const Tensor& timesteps) const {
  Tensor& on_device = table.is_same(weight_table_) ? weight_on_device_ : huber_on_device_;
  if (!on_device.defined() || on_device.device() != timesteps.device())
    on_device = table.to(timesteps.device());
  return on_device.index({timesteps});
}

Tensor DiffusionObjective::target(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const {
  switch (prediction_type_) {
    case PredictionType::kEpsilon:
      return noise;
    case PredictionType::kSample:
      return x0;
    case PredictionType::kVPrediction:
      return scheduler_->get_velocity(x0, noise, timesteps);
    case PredictionType::kFlowPrediction:
      return noise - x0;
    case PredictionType::kOriginalSample:
      break;
  }
  fail<ConfigError>("prediction_type is \"{}\": there is no training objective for it",
                    enum_name(prediction_type_));
}

Tensor DiffusionObjective::weights(const Tensor& timesteps) const {
  require_timesteps(timesteps, scheduler_->num_train_timesteps(), "weights");
  if (!weight_table_.defined()) return at::ones(timesteps.sizes(), timesteps.options().dtype(at::kFloat));
  return gather(weight_table_, timesteps);
}

Tensor DiffusionObjective::operator()(const Tensor& model_output, const Tensor& x0, const Tensor& noise,
                                      const Tensor& timesteps) const {
  require<TensorError>(x0.defined() && at::isFloatingType(x0.scalar_type()) && x0.dim() >= 1,
                       "diffusion_loss: x0 must be a floating tensor [B, ...], got {}", describe(x0));
  require_like(noise, x0, "noise", "x0");
  require_like(model_output, x0, "model_output", "x0");
  require_timesteps(timesteps, scheduler_->num_train_timesteps(), "diffusion_loss");
  require<TensorError>(timesteps.dim() == 1 && timesteps.size(0) == x0.size(0),
                       "diffusion_loss: timesteps are {}, expected one for each of the {} samples of x0 {}",
                       describe(timesteps), x0.size(0), describe(x0));
  const Tensor t = timesteps.to(x0.device());

  const at::ScalarType dtype =
      model_output.scalar_type() == at::kDouble || x0.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor difference = model_output.to(dtype) - target(x0, noise, t).to(dtype);

  Tensor losses;
  if (options_.loss_type == LossType::kL2) {
    losses = difference.square();
  } else if (options_.loss_type == LossType::kL1) {
    losses = difference.abs();
  } else {
    std::vector<int64_t> per_sample(static_cast<std::size_t>(difference.dim()), 1);
    per_sample[0] = difference.size(0);
    const Tensor c = huber_table_.defined() ? gather(huber_table_, t).to(dtype).view(per_sample)
                                            : at::full({}, options_.huber_c, difference.options());
    losses = 2 * ((difference.square() + c.square()).sqrt() - c);
    if (options_.loss_type == LossType::kHuber) losses = losses * c;
  }

  losses = losses.flatten(1 < losses.dim() ? 1 : 0);
  if (losses.dim() > 1) losses = losses.mean(1);
  if (weight_table_.defined()) losses = losses * gather(weight_table_, t).to(dtype);
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
  require_timesteps(timesteps, scheduler.num_train_timesteps(), "compute_snr");
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
