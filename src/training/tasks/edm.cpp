#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/training/batch_split.h>
#include <diffusers/training/edm.h>

#include <ATen/ATen.h>

#include "core/json.h"
#include "core/per_sample.h"
#include "core/require.h"
#include "training/tasks/label_checks.h"
#include "training/tasks/task_inputs.h"

namespace diffusers {
namespace {

constexpr double kLeastPosition = 1e-6;

/// A number for each sample, as `[B, 1, 1, ...]` of the samples' dtype.
Tensor over_samples(const Tensor& values, const Tensor& samples) {
  if (values.dim() == 0) return values.to(samples.scalar_type());
  return broadcast_per_sample(values.to(samples.scalar_type()), samples.dim());
}

void require_samples(const char* where, const Tensor& samples, const Tensor& sigma) {
  require<TensorError>(samples.defined() && samples.dim() > 0 && at::isFloatingType(samples.scalar_type()),
                       "{}: the samples are {}, expected a floating tensor [B, ...]", where,
                       describe(samples));
  require<TensorError>(
      sigma.defined() && at::isFloatingType(sigma.scalar_type()) &&
          (sigma.dim() == 0 ||
           (sigma.dim() == 1 && sigma.size(0) == samples.size(0) && sigma.device() == samples.device())),
      "{}: sigma is {}, the samples are {}; expected one floating number, or one for each sample", where,
      describe(sigma), describe(samples));
}

void require_same_shape(const char* where, const char* name, const Tensor& tensor, const Tensor& samples) {
  require<TensorError>(
      tensor.defined() && tensor.sizes() == samples.sizes() && tensor.device() == samples.device(),
      "{}: {} is {}, the samples are {}; both must be of one shape, on one device", where, name,
      describe(tensor), describe(samples));
}

/// EDM draws noise levels of its own and weighs them itself: what would change that elsewhere is refused.
void refuse_other_objectives(const TrainingConfig& config) {
  const Json given = parse_json(config.to_json(), "the training config");
  const Json defaults = parse_json(TrainingConfig{}.to_json(), "the training config");
  for (const char* key : {"snr_gamma",
                          "noise_offset",
                          "input_perturbation",
                          "loss_type",
                          "huber_schedule",
                          "huber_c",
                          "p2_gamma",
                          "p2_k",
                          "l_simple_weight",
                          "original_elbo_weight",
                          "vlb_weight",
                          "timestep_sampling",
                          "logit_mean",
                          "logit_std",
                          "mode_scale",
                          "timestep_bias_strategy",
                          "timestep_bias_multiplier",
                          "timestep_bias_begin",
                          "timestep_bias_end",
                          "timestep_bias_portion",
                          "continuous_timesteps",
                          "pyramid_noise_iterations",
                          "pyramid_noise_discount",
                          "learned_log_variance",
                          "logvar_init"})
    require<ConfigError>(given.at(key) == defaults.at(key),
                         "{} is {}, which EDM's training has no place for; expected its default, {}", key,
                         given.at(key).dump(), defaults.at(key).dump());
  require<ConfigError>(config.weighting == LossWeighting::kNone || config.weighting == LossWeighting::kEdm,
                       "weighting is \"{}\", but EDM's training has its own; expected \"none\" or \"edm\"",
                       enum_name(config.weighting));
}

LearnedLogVariance make_log_variance(const EDMConfig& config, torch::nn::Module& model) {
  require<ConfigError>(config.log_variance != LogVarianceType::kTable,
                       "log_variance is \"table\", one number a discrete timestep, but EDM's noise levels "
                       "are continuous; expected \"none\" or \"fourier\"");
  if (config.log_variance == LogVarianceType::kNone) return nullptr;
  LearnedLogVariance log_variance(LearnedLogVarianceConfig{.type = config.log_variance});
  const std::vector<Tensor> parameters = model.parameters();
  if (!parameters.empty()) log_variance->to(parameters[0].device(), parameters[0].scalar_type());
  return log_variance;
}

}  // namespace

EDMPreconditioner::EDMPreconditioner(double sigma_data) : sigma_data_(sigma_data) {
  require<ConfigError>(std::isfinite(sigma_data) && sigma_data > 0,
                       "sigma_data is {}, expected a positive number", sigma_data);
}

Tensor EDMPreconditioner::c_skip(const Tensor& sigma) const {
  return sigma_data_ * sigma_data_ / (sigma * sigma + sigma_data_ * sigma_data_);
}

Tensor EDMPreconditioner::c_out(const Tensor& sigma) const {
  return sigma * sigma_data_ / (sigma * sigma + sigma_data_ * sigma_data_).sqrt();
}

Tensor EDMPreconditioner::c_in(const Tensor& sigma) const {
  return 1 / (sigma * sigma + sigma_data_ * sigma_data_).sqrt();
}

Tensor EDMPreconditioner::c_noise(const Tensor& sigma) const { return 0.25 * sigma.log(); }

Tensor EDMPreconditioner::loss_weight(const Tensor& sigma) const {
  return (sigma * sigma + sigma_data_ * sigma_data_) / (sigma * sigma_data_).square();
}

Tensor EDMPreconditioner::precondition_inputs(const Tensor& sample, const Tensor& sigma) const {
  require_samples("precondition_inputs", sample, sigma);
  return sample * over_samples(c_in(sigma), sample);
}

Tensor EDMPreconditioner::precondition_outputs(const Tensor& sample, const Tensor& model_output,
                                               const Tensor& sigma) const {
  constexpr const char* kWhere = "precondition_outputs";
  require_samples(kWhere, sample, sigma);
  require_same_shape(kWhere, "the model's output", model_output, sample);
  return over_samples(c_skip(sigma), sample) * sample + over_samples(c_out(sigma), sample) * model_output;
}

Tensor EDMPreconditioner::target(const Tensor& x0, const Tensor& noise, const Tensor& sigma) const {
  require_samples("target", x0, sigma);
  require_same_shape("target", "the noise", noise, x0);
  const Tensor scale = c_in(sigma);
  return over_samples(scale * sigma / sigma_data_, x0) * x0 - over_samples(scale * sigma_data_, x0) * noise;
}

Tensor EDMPreconditioner::denoise(const Denoiser& model, const Tensor& noisy, const Tensor& sigma,
                                  const Conditioning& conditioning) const {
  const Tensor input = precondition_inputs(noisy, sigma);
  const Tensor timesteps = c_noise(sigma).to(noisy.device(), noisy.scalar_type()).expand({noisy.size(0)});
  const Tensor output = model(input, timesteps, conditioning);
  return precondition_outputs(noisy, output, sigma).to(noisy.scalar_type());
}

EDMTask::EDMTask(TrainableDenoiser model, const EDMConfig& config, std::string name)
    : config_(config), preconditioner_(config.sigma_data), model_(std::move(model)) {
  require<ConfigError>(model_.saved != nullptr && model_.denoise, "EDMTask: there is no model");
  require_plain_basename(name, "the name of a model");
  require<ConfigError>(std::isfinite(config.p_mean), "p_mean is {}, expected a finite number", config.p_mean);
  require<ConfigError>(std::isfinite(config.p_std) && config.p_std > 0,
                       "p_std is {}, expected a positive number", config.p_std);
  scheduler();  // checks sigma_min and sigma_max
  log_variance_ = make_log_variance(config, model_.saved->module());
  trained_.push_back({std::move(name), model_.saved});
  if (!log_variance_.is_empty()) trained_.push_back({"log_variance", make_saved_module(log_variance_)});
}

EDMEulerScheduler EDMTask::scheduler() const {
  return EDMEulerScheduler(
      {.sigma_min = config_.sigma_min, .sigma_max = config_.sigma_max, .sigma_data = config_.sigma_data});
}

void EDMTask::configure(const TrainingConfig& config) {
  refuse_other_objectives(config);
  require<ConfigError>(
      config.sigma_data == TrainingConfig{}.sigma_data || config.sigma_data == config_.sigma_data,
      "sigma_data is {}, but EDMConfig's is {}", config.sigma_data, config_.sigma_data);
  require_positional_embedding(model_, "EDM's timesteps");
  class_conditional_ = config.class_conditional;
  class_dropout_prob_ = config.class_dropout_prob;
  null_label_ = null_label(config, model_);
  label_checks_ = std::make_shared<LabelChecks>(config, model_);
  if (config.cpu_data_parallel > 1) require_no_dropout(model_, config.cpu_data_parallel);
  if (config.gradient_checkpointing) model_.saved->enable_gradient_checkpointing();
  resolution_ = config.resolution;
  cpu_data_parallel_ = config.cpu_data_parallel;
  is_configured_ = true;
}

void EDMTask::check_dataset(const Dataset& dataset) {
  require<Error>(label_checks_ != nullptr, "EDMTask::check_dataset: configure() was not called");
  label_checks_->check(dataset);
}

void EDMTask::check_batch(const Batch& batch) {
  require<Error>(label_checks_ != nullptr, "EDMTask::check_batch: configure() was not called");
  label_checks_->check(batch);
}

void EDMTask::begin_step(const StepContext& context) {
  context_ = context;
  rows_.begin_step(context);
}

Tensor EDMTask::encode(const Batch& batch) { return images_of(batch, resolution_); }

Conditioning EDMTask::conditioning(const Batch& batch) {
  return label_conditioning(batch, model_, class_conditional_);
}

Tensor EDMTask::losses(const Tensor& x0, const Draw& drawn, const Conditioning& conditioning, int64_t parts) {
  const Tensor noisy = x0 + over_samples(drawn.sigma, x0) * drawn.noise;
  const Tensor output = predict_in_parts(model_, preconditioner_.precondition_inputs(noisy, drawn.sigma),
                                         preconditioner_.c_noise(drawn.sigma), conditioning, parts);
  require_same_shape("EDMTask::loss", "the model's output", output, x0);
  // The weighted error of D is the error of F, since lambda c_out^2 = 1.
  const Tensor target = preconditioner_.target(x0, drawn.noise, drawn.sigma);
  return (output.to(x0.scalar_type()) - target).square().flatten(1).mean(1);
}

StepLoss EDMTask::loss(const Batch& batch, std::size_t) {
  require<Error>(is_configured_, "EDMTask::loss: configure() was not called");
  const Tensor x0 = encode(batch);
  const Draw drawn = draw(x0);
  Tensor each = losses(x0, drawn, drop_labels(conditioning(batch), drawn.is_unconditional, null_label_),
                       cpu_data_parallel_);
  if (log_variance_.is_empty()) return each;
  const Tensor u = log_variance_->forward(preconditioner_.c_noise(drawn.sigma)).to(each.scalar_type());
  return each * (-u).exp() + u;
}

Tensor EDMTask::validation_loss(const Batch& batch, const Tensor& positions, const Generator& generator) {
  require<Error>(is_configured_, "EDMTask::validation_loss: configure() was not called");
  const Tensor x0 = encode(batch);
  const Tensor quantile = positions.to(at::kDouble).clamp(kLeastPosition, 1 - kLeastPosition);
  Draw drawn;
  drawn.sigma = (config_.p_mean + config_.p_std * at::special_ndtri(quantile)).exp().to(x0.options());
  drawn.noise = at::randn(x0.sizes(), generator, x0.options());
  return losses(x0, drawn, conditioning(batch), /*parts=*/1);
}

EDMTask::Draw EDMTask::draw(const Tensor& x0) {
  const int64_t first = rows_.next(x0, [&](at::IntArrayRef shape) {
    step_draw_ = draw_samples(shape, x0.options().requires_grad(false));
  });
  const auto rows = [&](const Tensor& tensor) {
    return tensor.defined() ? tensor.narrow(0, first, x0.size(0)) : tensor;
  };
  return {rows(step_draw_.sigma), rows(step_draw_.noise), rows(step_draw_.is_unconditional)};
}

EDMTask::Draw EDMTask::draw_samples(at::IntArrayRef shape, const at::TensorOptions& options) {
  const std::optional<Generator>& generator = context_.generator;
  Draw drawn;
  drawn.sigma = (config_.p_mean + config_.p_std * at::randn({shape[0]}, generator, options)).exp();
  drawn.noise = at::randn(shape, generator, options);
  if (class_dropout_prob_ > 0)
    drawn.is_unconditional = at::rand({shape[0]}, generator, options.dtype(at::kFloat)) < class_dropout_prob_;
  return drawn;
}

std::string EDMTask::config_json() const {
  return dump_json({{"_class_name", "EDMTask"},
                    {"p_mean", config_.p_mean},
                    {"p_std", config_.p_std},
                    {"sigma_data", config_.sigma_data},
                    {"log_variance", std::string(enum_name(config_.log_variance))}});
}

void EDMTask::save_extras(const std::filesystem::path& output_dir) const {
  scheduler().save_pretrained(join_path(output_dir, "scheduler"));
}

}  // namespace diffusers
