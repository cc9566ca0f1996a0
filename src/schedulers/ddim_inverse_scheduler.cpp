#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/ddim_inverse_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/prediction.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(DDIMInverseSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("clip_sample", config.clip_sample);
  visit("set_alpha_to_one", config.set_alpha_to_one);
  visit("steps_offset", config.steps_offset);
  visit("prediction_type", config.prediction_type);
  visit("clip_sample_range", config.clip_sample_range);
  visit("timestep_spacing", config.timestep_spacing);
  visit("rescale_betas_zero_snr", config.rescale_betas_zero_snr);
}

template class ConfiguredScheduler<DDIMInverseScheduler, DDIMInverseSchedulerConfig>;

DDIMInverseScheduler::DDIMInverseScheduler(DDIMInverseSchedulerConfig config)
    : ConfiguredScheduler(std::move(config)), schedule_(beta_options(config_)) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction});
  check_clipping(kClassName, config_);
  std::vector<double> ascending = training_timesteps(config_.num_train_timesteps);
  std::reverse(ascending.begin(), ascending.end());
  timesteps_ = TimestepSchedule(std::move(ascending), at::kLong);
}

void DDIMInverseScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                         const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps, config_.num_train_timesteps);
  require<ConfigError>(config_.timestep_spacing != TimestepSpacing::kLinspace,
                       "{}: timestep_spacing is \"linspace\", expected leading or trailing", kClassName);
  std::vector<double> values =
      spaced_timesteps(config_.timestep_spacing, config_.num_train_timesteps, n, config_.steps_offset);
  std::reverse(values.begin(), values.end());
  const int64_t stride = config_.num_train_timesteps / n;
  const bool starts_clean = config_.set_alpha_to_one && values.front() < static_cast<double>(stride);
  require<ConfigError>(
      !starts_clean || config_.prediction_type != PredictionType::kSample,
      "{}: a model that predicts the sample gives no epsilon where there is no noise, as at the "
      "first step; set_alpha_to_one must be false",
      kClassName);
  timesteps_ = TimestepSchedule(std::move(values), at::kLong, options.device);
  num_inference_steps_ = n;
}

SchedulerOutput DDIMInverseScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                           const Tensor& sample, const StepOptions& options) {
  require(num_inference_steps_ > 0, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  // The timestep is the end of the step. The step starts at a level with less noise.
  const int64_t next_t = timesteps_.index_of_training_step(timestep, kClassName);
  const int64_t t =
      std::min(next_t - config_.num_train_timesteps / num_inference_steps_, config_.num_train_timesteps - 1);
  const float alpha_bar = t >= 0                     ? schedule_.alpha_bar(t)
                          : config_.set_alpha_to_one ? 1.0f
                                                     : schedule_.alpha_bar(0);
  const float alpha_bar_next = schedule_.alpha_bar(next_t);
  const float beta_bar = 1 - alpha_bar;

  if (config_.prediction_type == PredictionType::kEpsilon)
    require_signal(kClassName, alpha_bar, t, config_.clip_sample);
  require<ConfigError>(config_.prediction_type != PredictionType::kSample || beta_bar > 0,
                       "{}: step: a model that predicts the sample gives no epsilon where there is no noise; "
                       "set_alpha_to_one must be false",
                       kClassName);
  const Tensor pred_epsilon = noise_prediction(config_.prediction_type, model_output, sample, alpha_bar);
  const Tensor pred_original_sample = clip_or_threshold(
      data_prediction(config_.prediction_type, model_output, sample, alpha_bar), config_, model_output);
  // Song et al., eq. 12 with eta = 0, towards more noise
  return {.prev_sample = weighted_sum(torch_sqrt(alpha_bar_next), pred_original_sample,
                                      torch_sqrt(1 - alpha_bar_next), pred_epsilon),
          .pred_original_sample = pred_original_sample};
}

}  // namespace diffusers
