#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/io/chart.h>
#include <diffusers/io/files.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/training/batch_split.h>
#include <diffusers/training/diffusion_task.h>

#include <ATen/ATen.h>

#include "core/json.h"
#include "core/require.h"
#include "io/model_index.h"
#include "training/objective/forward_process.h"
#include "training/tasks/label_checks.h"
#include "training/tasks/task_inputs.h"

namespace diffusers {
namespace {

/// @param signal, noise what x_0 and the noise are multiplied with, by timestep
void save_noise_schedule_picture(const Tensor& signal, const Tensor& noise, const std::string& path) {
  const auto series = [](const char* name, const Tensor& values) {
    const Tensor row = values.to(at::kCPU, at::kDouble).contiguous();
    const double* data = row.const_data_ptr<double>();
    ChartSeries line;
    line.name = name;
    line.y.assign(data, data + row.numel());
    return line;
  };
  ChartOptions options;
  options.title = "Noise schedule";
  options.x_label = "timestep";
  options.y_label = "share in the noisy sample";
  save_line_chart({series("signal", signal), series("noise", noise)}, path, options);
}

}  // namespace

DiffusionTask::DiffusionTask(TrainableDenoiser model, const Scheduler& scheduler, std::string name)
    : model_(std::move(model)),
      trained_{{std::move(name), model_.saved}},
      scheduler_(scheduler.clone()),
      process_(std::make_shared<const ForwardProcess>(scheduler)) {
  require<ConfigError>(model_.saved != nullptr && model_.denoise, "DiffusionTask: there is no model");
  require_plain_basename(trained_[0].name, "the name of a model");
}

void DiffusionTask::configure(const TrainingConfig& config) {
  objective_.emplace(*scheduler_, DiffusionLossOptions{.loss_type = config.loss_type,
                                                       .snr_gamma = config.snr_gamma,
                                                       .huber_schedule = config.huber_schedule,
                                                       .huber_c = config.huber_c,
                                                       .reduction = LossReduction::kNone,
                                                       .weighting = config.weighting,
                                                       .p2_gamma = config.p2_gamma,
                                                       .p2_k = config.p2_k,
                                                       .sigma_data = config.sigma_data,
                                                       .l_simple_weight = config.l_simple_weight,
                                                       .original_elbo_weight = config.original_elbo_weight,
                                                       .vlb_weight = config.vlb_weight});
  configure_timesteps(config);
  configure_labels(config);
  configure_log_variance(config);
  if (process_->has_continuous_timesteps())
    require_positional_embedding(model_, "the timesteps of timestep_type \"continuous\"");
  if (config.cpu_data_parallel > 1) require_no_dropout(model_, config.cpu_data_parallel);
  if (config.gradient_checkpointing) model_.saved->enable_gradient_checkpointing();
  resolution_ = config.resolution;
  cpu_data_parallel_ = config.cpu_data_parallel;
  pyramid_noise_ = {.iterations = config.pyramid_noise_iterations, .discount = config.pyramid_noise_discount};
  noise_offset_ = config.noise_offset;
  input_perturbation_ = config.input_perturbation;
}

void DiffusionTask::configure_timesteps(const TrainingConfig& config) {
  sampler_.emplace(scheduler_->num_train_timesteps(),
                   TimestepSamplingOptions{.strategy = config.timestep_sampling,
                                           .logit_mean = config.logit_mean,
                                           .logit_std = config.logit_std,
                                           .mode_scale = config.mode_scale,
                                           .bias = config.timestep_bias_strategy,
                                           .bias_multiplier = config.timestep_bias_multiplier,
                                           .bias_begin = config.timestep_bias_begin,
                                           .bias_end = config.timestep_bias_end,
                                           .bias_portion = config.timestep_bias_portion,
                                           .continuous = config.continuous_timesteps});
  require<ConfigError>(
      is_flow() || !config.continuous_timesteps,
      "continuous_timesteps is true, but prediction_type is \"{}\", whose noise schedule has "
      "discrete timesteps; flow_prediction has continuous ones",
      enum_name(objective_->prediction_type()));
  if (!is_flow()) return;
  require<ConfigError>(config.timestep_sampling != TimestepSampling::kLossSecondMoment,
                       "timestep_sampling is \"loss_second_moment\", which learns of discrete timesteps, but "
                       "prediction_type is \"flow_prediction\"");
  flow_timesteps_ = process_->flow_timesteps();
}

/// SD3's scripts: what is drawn is the place of the timestep, from noise to data.
Tensor DiffusionTask::flow_timesteps_at(const Tensor& drawn) {
  if (!at::isFloatingType(drawn.scalar_type())) {
    flow_timesteps_ = flow_timesteps_.to(drawn.device());
    return flow_timesteps_.index({drawn});
  }
  const auto steps = static_cast<double>(scheduler_->num_train_timesteps());
  const Tensor sigma = 1 - drawn / steps;
  const double shift = process_->flow_shift();
  return shift * sigma / (1 + (shift - 1) * sigma) * steps;
}

void DiffusionTask::configure_log_variance(const TrainingConfig& config) {
  trained_.resize(1);
  log_variance_ = nullptr;
  if (config.learned_log_variance == LogVarianceType::kNone) return;
  require<ConfigError>(config.learned_log_variance != LogVarianceType::kTable || !is_flow(),
                       "learned_log_variance is \"table\", but prediction_type \"flow_prediction\" has no "
                       "whole timesteps; \"fourier\" takes any");
  LearnedLogVariance module({.type = config.learned_log_variance,
                             .num_train_timesteps = scheduler_->num_train_timesteps(),
                             .logvar_init = config.logvar_init});
  const std::vector<Tensor> parameters = model_.saved->module().parameters();
  if (!parameters.empty()) module->to(parameters.front().device(), parameters.front().scalar_type());
  log_variance_ = module;
  takes_fractions_ = config.learned_log_variance == LogVarianceType::kFourier;
  trained_.push_back({"log_variance", make_saved_module(log_variance_)});
}

Tensor DiffusionTask::log_variance(const Tensor& timesteps) const {
  if (log_variance_.is_empty()) return {};
  if (!takes_fractions_) return log_variance_->forward(timesteps);
  return log_variance_->forward(timesteps.to(at::kFloat) /
                                static_cast<double>(scheduler_->num_train_timesteps()));
}

void DiffusionTask::configure_labels(const TrainingConfig& config) {
  class_conditional_ = config.class_conditional;
  class_dropout_prob_ = config.class_dropout_prob;
  null_label_ = null_label(config, model_);
  label_checks_ = std::make_shared<LabelChecks>(config, model_);
}

void DiffusionTask::check_dataset(const Dataset& dataset) {
  require<Error>(label_checks_ != nullptr, "DiffusionTask::check_dataset: configure() was not called");
  label_checks_->check(dataset);
}

void DiffusionTask::check_batch(const Batch& batch) {
  require<Error>(label_checks_ != nullptr, "DiffusionTask::check_batch: configure() was not called");
  label_checks_->check(batch);
}

void DiffusionTask::begin_step(const StepContext& context) {
  context_ = context;
  rows_.begin_step(context);
}

StepLoss DiffusionTask::loss(const Batch& batch, std::size_t) {
  require<Error>(objective_.has_value(), "DiffusionTask::loss: configure() was not called");
  const Tensor x0 = encode(batch);
  const Draw drawn = draw(x0);
  const Tensor noisy = process_->add_noise(x0, drawn.input_noise, drawn.timesteps);
  const Tensor prediction = predict_in_parts(
      model_, noisy, process_->model_timesteps(drawn.timesteps),
      drop_labels(conditioning(batch), drawn.is_unconditional, null_label_), cpu_data_parallel_);
  const Tensor losses =
      (*objective_)(prediction, x0, drawn.noise, drawn.timesteps, log_variance(drawn.timesteps));
  sampler_->update(drawn.timesteps, losses);
  return drawn.weights.defined() ? losses * drawn.weights : losses;
}

TensorMap DiffusionTask::state() const { return sampler_ ? sampler_->state_dict() : TensorMap(); }

void DiffusionTask::load_state(const TensorMap& state) { sampler_->load_state_dict(state); }

Tensor DiffusionTask::validation_loss(const Batch& batch, const Tensor& positions,
                                      const Generator& generator) {
  require<Error>(objective_.has_value(), "DiffusionTask::validation_loss: configure() was not called");
  const Tensor x0 = encode(batch);
  const auto steps = static_cast<double>(scheduler_->num_train_timesteps());
  Tensor timesteps = (positions * steps).floor().to(at::kLong);
  // Flow matching counts its timesteps from noise to data.
  if (is_flow()) timesteps = process_->flow_timesteps().flip(0).index({timesteps});
  timesteps = timesteps.to(x0.device());
  const Tensor noise = at::randn(x0.sizes(), generator, x0.options());
  const Tensor prediction = model_.denoise(process_->add_noise(x0, noise, timesteps),
                                           process_->model_timesteps(timesteps), conditioning(batch));
  return (*objective_)(prediction, x0, noise, timesteps);
}

Tensor DiffusionTask::encode(const Batch& batch) { return images_of(batch, resolution_); }

Conditioning DiffusionTask::conditioning(const Batch& batch) {
  return label_conditioning(batch, model_, class_conditional_);
}

DiffusionTask::Draw DiffusionTask::draw(const Tensor& x0) {
  const int64_t first = rows_.next(x0, [&](at::IntArrayRef shape) {
    step_draw_ = draw_samples(shape, x0.options().requires_grad(false));
  });
  const auto rows = [&](const Tensor& tensor) {
    return tensor.defined() ? tensor.narrow(0, first, x0.size(0)) : tensor;
  };
  return {rows(step_draw_.noise), rows(step_draw_.input_noise), rows(step_draw_.timesteps),
          rows(step_draw_.weights), rows(step_draw_.is_unconditional)};
}

DiffusionTask::Draw DiffusionTask::draw_samples(at::IntArrayRef shape, const at::TensorOptions& options) {
  const std::optional<Generator>& generator = context_.generator;
  Draw drawn;
  drawn.noise = at::randn(shape, generator, options);
  if (noise_offset_ > 0) {
    std::vector<int64_t> per_channel(shape.size(), 1);
    per_channel[0] = shape[0];
    per_channel[1] = shape[1];
    drawn.noise = drawn.noise + noise_offset_ * at::randn(per_channel, generator, options);
  }
  if (pyramid_noise_.iterations > 0) drawn.noise = pyramid_noise(drawn.noise, pyramid_noise_, generator);
  drawn.input_noise = drawn.noise;
  if (input_perturbation_ > 0)
    drawn.input_noise = drawn.noise + input_perturbation_ * at::randn(shape, generator, options);
  const TimestepSampler::Draw timesteps = sampler_->sample(shape[0], generator, options.device());
  drawn.timesteps = is_flow() ? flow_timesteps_at(timesteps.timesteps) : timesteps.timesteps;
  drawn.weights = timesteps.weights;
  if (class_dropout_prob_ > 0)
    drawn.is_unconditional = at::rand({shape[0]}, generator, options.dtype(at::kFloat)) < class_dropout_prob_;
  return drawn;
}

std::string DiffusionTask::config_json() const {
  return dump_json({{"_class_name", "DiffusionTask"},
                    {"scheduler", parse_json(scheduler_->config_json(), "config_json() of the scheduler")}});
}

void DiffusionTask::save_extras(const std::filesystem::path& output_dir) const {
  scheduler_->save_pretrained(join_path(output_dir, "scheduler"));
  const ForwardProcess::Shares shares = process_->shares();
  save_noise_schedule_picture(shares.signal, shares.noise, join_path(output_dir, "noise_schedule.svg"));

  const std::string config_text = model_.saved->config_json();
  if (config_text.empty()) return;  // a model that Python does not know
  const Json config = parse_json(config_text, "config_json() of the model");
  const bool is_ddim = dynamic_cast<const DDIMScheduler*>(scheduler_.get()) != nullptr;
  write_model_index({.class_name = is_ddim ? "DDIMPipeline" : "DDPMPipeline",
                     .components = {{"scheduler", scheduler_->class_name()},
                                    {trained_[0].name, config.value("_class_name", "UNet2DModel")}}},
                    output_dir);
}

}  // namespace diffusers
