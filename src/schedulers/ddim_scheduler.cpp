#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/ddim_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/prediction.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(DDIMSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("clip_sample", config.clip_sample);
  visit("set_alpha_to_one", config.set_alpha_to_one);
  visit("steps_offset", config.steps_offset);
  visit("prediction_type", config.prediction_type);
  visit("thresholding", config.thresholding);
  visit("dynamic_thresholding_ratio", config.dynamic_thresholding_ratio);
  visit("clip_sample_range", config.clip_sample_range);
  visit("sample_max_value", config.sample_max_value);
  visit("timestep_spacing", config.timestep_spacing);
  visit("rescale_betas_zero_snr", config.rescale_betas_zero_snr);
}

template class ConfiguredScheduler<DDIMScheduler, DDIMSchedulerConfig>;

DDIMScheduler::DDIMScheduler(DDIMSchedulerConfig config)
    : ConfiguredScheduler(std::move(config)),
      schedule_(beta_options(config_)),
      timesteps_(training_timesteps(config_.num_train_timesteps), at::kLong) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction});
  check_clipping(kClassName, config_);
}

Tensor DDIMScheduler::final_alpha_cumprod() const {
  return config_.set_alpha_to_one ? at::ones({}) : schedule_.alphas_cumprod()[0];
}

Tensor DDIMScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                const Tensor& timesteps) const {
  return schedule_.add_noise(original_samples, noise, timesteps);
}

Tensor DDIMScheduler::get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const {
  return schedule_.get_velocity(sample, noise, timesteps);
}

void DDIMScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                  const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.timesteps = true});
  custom_timesteps_ = !options.timesteps.empty();
  if (custom_timesteps_) {
    require<ConfigError>(!num_inference_steps,
                         "{}: set_timesteps takes num_inference_steps or timesteps, not both", kClassName);
    check_custom_timesteps(kClassName, options.timesteps, config_.num_train_timesteps);
    timesteps_ = TimestepSchedule(options.timesteps, at::kLong, options.device);
    num_inference_steps_ = timesteps_.size();
    return;
  }
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps, config_.num_train_timesteps);
  timesteps_ = TimestepSchedule(
      spaced_timesteps(config_.timestep_spacing, config_.num_train_timesteps, n, config_.steps_offset),
      at::kLong, options.device);
  num_inference_steps_ = n;
}

int64_t DDIMScheduler::previous_timestep(int64_t timestep) const {
  require(num_inference_steps_ > 0, "{}: call set_timesteps before previous_timestep", kClassName);
  return custom_timesteps_ ? timesteps_.following(timestep, kClassName)
                           : timestep - config_.num_train_timesteps / num_inference_steps_;
}

SchedulerOutput DDIMScheduler::step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                                    const StepOptions& options) {
  require(num_inference_steps_ > 0, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options,
                     {.eta = true, .use_clipped_model_output = true, .variance_noise = true});
  check_step_tensors(kClassName, model_output, sample);

  const int64_t t = timesteps_.index_of_training_step(timestep, kClassName);
  const int64_t prev_t = previous_timestep(t);
  const float alpha_bar = schedule_.alpha_bar(t);
  const float alpha_bar_prev = prev_t >= 0                ? schedule_.alpha_bar(prev_t)
                               : config_.set_alpha_to_one ? 1.0f
                                                          : schedule_.alpha_bar(0);
  const float beta_bar = 1 - alpha_bar;
  const double eta = options.eta.value_or(0.0);
  require<ConfigError>(eta >= 0, "{}: step: eta is {}, expected a number that is not negative", kClassName,
                       eta);
  require<ConfigError>(beta_bar > 0 && alpha_bar_prev > 0,
                       "{}: step: epsilon at timestep {} is undefined, since abar is {} there and {} before",
                       kClassName, t, alpha_bar, alpha_bar_prev);

  if (config_.prediction_type == PredictionType::kEpsilon)
    require_signal(kClassName, alpha_bar, t, config_.clip_sample || config_.thresholding);
  Tensor pred_epsilon = noise_prediction(config_.prediction_type, model_output, sample, alpha_bar);
  const Tensor pred_original_sample = clip_or_threshold(
      data_prediction(config_.prediction_type, model_output, sample, alpha_bar), config_, model_output);
  if (options.use_clipped_model_output)
    pred_epsilon = noise_prediction(PredictionType::kSample, pred_original_sample, sample, alpha_bar);

  // sigma_t, Song et al., eq. 16
  const float variance = (1 - alpha_bar_prev) / beta_bar * std::max(1 - alpha_bar / alpha_bar_prev, 0.0f);
  const float sigma = static_cast<float>(eta) * torch_sqrt(variance);
  // x_{t-1}, eq. 12: the predicted x_0, the direction pointing to x_t, and noise
  const float direction = ddim_direction(kClassName, alpha_bar_prev, sigma, eta);
  Tensor prev_sample =
      weighted_sum(torch_sqrt(alpha_bar_prev), pred_original_sample, direction, pred_epsilon);
  if (eta > 0) prev_sample = add_scaled(prev_sample, 1, scaled_noise(sigma, options, model_output));
  return {.prev_sample = prev_sample,
          .pred_original_sample = pred_original_sample,
          .denoised = {},
          .pred_noised_sample = {}};
}

}  // namespace diffusers
