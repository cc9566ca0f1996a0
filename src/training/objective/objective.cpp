#include <cmath>
#include <memory>
#include <numbers>
#include <utility>
#include <vector>

#include <diffusers/training/objective.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/objective/forward_process.h"
#include "training/objective/option_fields.h"
#include "training/objective/per_sample.h"
#include "training/objective/snr_weights.h"

namespace diffusers {
namespace {

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

}  // namespace

DiffusionObjective::DiffusionObjective(const Scheduler& scheduler, const DiffusionLossOptions& options)
    : DiffusionObjective(make_forward_process(scheduler, options), options) {}

DiffusionObjective::DiffusionObjective(std::shared_ptr<const ForwardProcess> process,
                                       const DiffusionLossOptions& options)
    : process_(std::move(process)), options_(options) {
  const Scheduler& scheduler = process_->scheduler();
  if (has_huber_loss(options_) && options_.huber_schedule != HuberSchedule::kConstant) {
    require<ConfigError>(process_->has_discrete_times(),
                         "huber_schedule is \"{}\", which needs discrete timesteps, but {} has none",
                         options_.huber_schedule.name(), scheduler.class_name());
    huber_ = DeviceTable(huber_constants(scheduler, options_));
  }
  // Only a process of discrete timesteps has a variational bound.
  const VarianceType variance = variance_type_of(scheduler);
  if (process_->has_discrete_times() &&
      (variance == VarianceType::kLearned || variance == VarianceType::kLearnedRange))
    bound_.emplace(scheduler);
  require<ConfigError>(
      bound_ || !options_.vlb_weight,
      "vlb_weight is {}, but has an effect only with the scheduler's variance_type \"learned\" or "
      "\"learned_range\"",
      options_.vlb_weight.value_or(0));
}

PredictionType DiffusionObjective::prediction_type() const { return process_->prediction_type(); }

Tensor DiffusionObjective::target(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const {
  return process_->target(x0, noise, timesteps);
}

Tensor DiffusionObjective::weights(const Tensor& timesteps) const {
  process_->check_times(timesteps, "weights");
  const Tensor weight = process_->weight(timesteps);
  return weight.defined() ? weight : at::ones(timesteps.sizes(), timesteps.options().dtype(at::kDouble));
}

Tensor DiffusionObjective::element_losses(const Tensor& difference, const Tensor& timesteps) const {
  if (options_.loss_type == LossType::kL2) return difference.square();
  if (options_.loss_type == LossType::kL1) return difference.abs();
  const Tensor c =
      huber_.host().defined()
          ? over_samples(huber_.on(timesteps.device(), at::kDouble).index({timesteps}), difference)
          : at::full({}, options_.huber_c, difference.options());
  const Tensor losses = 2 * ((difference.square() + c.square()).sqrt() - c);
  return options_.loss_type == LossType::kHuber ? losses * c : losses;
}

Tensor DiffusionObjective::variational_loss(const Tensor& model_output, const Tensor& x0, const Tensor& noise,
                                            const Tensor& timesteps) const {
  const std::vector<Tensor> halves = model_output.chunk(2, 1);
  const Tensor mean_held_fixed = at::cat({halves[0].detach(), halves[1]}, 1);
  const double weight =
      options_.vlb_weight.value_or(static_cast<double>(bound_->num_train_timesteps()) / 1000);
  return weight * bound_->term(mean_held_fixed, x0, process_->noisy(x0, noise, timesteps), timesteps);
}

Tensor DiffusionObjective::operator()(const Tensor& model_output, const Tensor& x0, const Tensor& noise,
                                      const Tensor& timesteps, const Tensor& log_variance) const {
  require<TensorError>(x0.defined() && at::isFloatingType(x0.scalar_type()) && x0.dim() >= 1,
                       "diffusion_loss: x0 must be a floating tensor [B, ...], got {}", describe(x0));
  require_like(noise, x0, "noise", "x0");
  process_->check_times(timesteps, "diffusion_loss");
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

  const Tensor weight = process_->weight(t);
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
  if (const Tensor bound_weight = process_->bound_weight(t); bound_weight.defined())
    losses = losses + options_.original_elbo_weight * bound_weight.to(dtype) * unweighted;
  if (bound_) losses = losses + variational_loss(model_output.to(dtype), x0.to(dtype), noise.to(dtype), t);

  switch (options_.reduction.value()) {
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
  check_timesteps(timesteps, scheduler.num_train_timesteps(), /*is_continuous=*/false, "compute_snr");
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
