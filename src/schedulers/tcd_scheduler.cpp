#include <cmath>

#include <diffusers/schedulers/tcd_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/distilled_timesteps.h"
#include "schedulers/prediction.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(TCDSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("original_inference_steps", config.original_inference_steps);
  visit("clip_sample", config.clip_sample);
  visit("clip_sample_range", config.clip_sample_range);
  visit("set_alpha_to_one", config.set_alpha_to_one);
  visit("steps_offset", config.steps_offset);
  visit("prediction_type", config.prediction_type);
  visit("thresholding", config.thresholding);
  visit("dynamic_thresholding_ratio", config.dynamic_thresholding_ratio);
  visit("sample_max_value", config.sample_max_value);
  visit("timestep_spacing", config.timestep_spacing);
  visit("timestep_scaling", config.timestep_scaling);
  visit("rescale_betas_zero_snr", config.rescale_betas_zero_snr);
}

template class ConfiguredScheduler<TCDScheduler, TCDSchedulerConfig>;

TCDScheduler::TCDScheduler(TCDSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(beta_options(config_)) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction});
  check_clipping(kClassName, config_);
  run_ = SigmaRun({}, TimestepSchedule(training_timesteps(config_.num_train_timesteps), at::kLong));
}

Tensor TCDScheduler::final_alpha_cumprod() const {
  return config_.set_alpha_to_one ? at::ones({}) : schedule_.alphas_cumprod()[0];
}

Tensor TCDScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                               const Tensor& timesteps) const {
  return schedule_.add_noise(original_samples, noise, timesteps);
}

Tensor TCDScheduler::get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const {
  return schedule_.get_velocity(sample, noise, timesteps);
}

void TCDScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                 const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options,
                              {.original_inference_steps = true, .timesteps = true, .strength = true});
  auto [values, n] =
      distilled_timesteps(kClassName, num_inference_steps, options, config_.num_train_timesteps,
                          options.original_inference_steps.value_or(config_.original_inference_steps),
                          options.original_inference_steps.has_value());
  run_ = SigmaRun({}, TimestepSchedule(std::move(values), at::kLong, options.device));
  num_inference_steps_ = n;
}

int64_t TCDScheduler::previous_timestep(int64_t timestep) const {
  return num_inference_steps_ > 0 ? run_.timesteps().following(timestep, kClassName) : timestep - 1;
}

SchedulerOutput TCDScheduler::step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                                   const StepOptions& options) {
  require(num_inference_steps_ > 0, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {.eta = true});
  check_step_tensors(kClassName, model_output, sample);
  const double eta = options.eta.value_or(0.3);
  require<ConfigError>(eta >= 0 && eta <= 1, "{}: step: eta is {}, expected 0 to 1", kClassName, eta);
  const int64_t i = run_.enter(timestep, kClassName);
  const int64_t t = run_.timesteps().index_of_training_step(timestep, kClassName);
  const int64_t prev_t = i + 1 < run_.timesteps().size() ? static_cast<int64_t>(run_.timesteps()[i + 1]) : 0;
  const auto s = static_cast<int64_t>(std::floor(static_cast<float>(1 - eta) * static_cast<float>(prev_t)));
  const float alpha_bar = schedule_.alpha_bar(t);
  const float alpha_bar_prev = schedule_.alpha_bar(prev_t);
  const float alpha_bar_s = schedule_.alpha_bar(s);

  if (config_.prediction_type == PredictionType::kEpsilon) require_signal(kClassName, alpha_bar, t, false);
  const Tensor pred_original_sample =
      data_prediction(config_.prediction_type, model_output, sample, alpha_bar);
  const Tensor pred_epsilon = noise_prediction(config_.prediction_type, model_output, sample, alpha_bar);
  const Tensor pred_noised_sample =
      weighted_sum(torch_sqrt(alpha_bar_s), pred_original_sample, torch_sqrt(1 - alpha_bar_s), pred_epsilon);
  Tensor prev_sample = pred_noised_sample;
  if (eta > 0 && i != num_inference_steps_ - 1) {
    const float ratio = alpha_bar_prev / alpha_bar_s;
    prev_sample = add_scaled(
        at::mul(pred_noised_sample, torch_sqrt(ratio)), 1,
        scaled_noise(torch_sqrt(1 - ratio), options, model_output, pred_noised_sample.scalar_type()));
  }
  run_.advance();
  return {.prev_sample = prev_sample, .pred_noised_sample = pred_noised_sample};
}

}  // namespace diffusers
