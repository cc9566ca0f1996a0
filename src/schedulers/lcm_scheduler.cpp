#include <cmath>

#include <diffusers/schedulers/lcm_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/distilled_timesteps.h"
#include "schedulers/prediction.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(LCMSchedulerConfig& config, ConfigVisitor& visit) {
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

template class ConfiguredScheduler<LCMScheduler, LCMSchedulerConfig>;

LCMScheduler::LCMScheduler(LCMSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(beta_options(config_)) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction});
  check_clipping(kClassName, config_);
  run_ = SigmaRun({}, TimestepSchedule(training_timesteps(config_.num_train_timesteps), at::kLong));
}

Tensor LCMScheduler::final_alpha_cumprod() const {
  return config_.set_alpha_to_one ? at::ones({}) : schedule_.alphas_cumprod()[0];
}

Tensor LCMScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                               const Tensor& timesteps) const {
  return schedule_.add_noise(original_samples, noise, timesteps);
}

Tensor LCMScheduler::get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const {
  return schedule_.get_velocity(sample, noise, timesteps);
}

void LCMScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                 const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options,
                              {.original_inference_steps = true, .timesteps = true, .strength = true});
  auto [values, n] = distilled_timesteps(
      kClassName, num_inference_steps, options, config_.num_train_timesteps,
      options.original_inference_steps.value_or(config_.original_inference_steps), /*all_timesteps=*/false);
  run_ = SigmaRun({}, TimestepSchedule(std::move(values), at::kLong, options.device));
  num_inference_steps_ = n;
}

int64_t LCMScheduler::previous_timestep(int64_t timestep) const {
  return num_inference_steps_ > 0 ? run_.timesteps().following(timestep, kClassName) : timestep - 1;
}

SchedulerOutput LCMScheduler::step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                                   const StepOptions& options) {
  require(num_inference_steps_ > 0, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const int64_t t = run_.timesteps().index_of_training_step(timestep, kClassName);
  const int64_t prev_t = i + 1 < run_.timesteps().size() ? static_cast<int64_t>(run_.timesteps()[i + 1]) : t;
  const float alpha_bar = schedule_.alpha_bar(t);
  const float alpha_bar_prev = schedule_.alpha_bar(prev_t);

  // Boundary condition f(x, 0) = x (Luo et al. 2023, section 4.1), with sigma_data = 0.5.
  const auto scaled_timestep = static_cast<float>(static_cast<double>(t) * config_.timestep_scaling);
  constexpr float kSigmaData = 0.5f;
  const float denominator = scaled_timestep * scaled_timestep + kSigmaData * kSigmaData;
  const float c_skip = kSigmaData * kSigmaData / denominator;
  const float c_out = scaled_timestep / torch_sqrt(denominator);

  if (config_.prediction_type == PredictionType::kEpsilon)
    require_signal(kClassName, alpha_bar, t, config_.clip_sample || config_.thresholding);
  const Tensor pred_original_sample = clip_or_threshold(
      data_prediction(config_.prediction_type, model_output, sample, alpha_bar), config_, model_output);
  const Tensor denoised = weighted_sum(c_out, pred_original_sample, c_skip, sample);
  Tensor prev_sample = denoised;
  if (i != num_inference_steps_ - 1)
    prev_sample = add_scaled(
        at::mul(denoised, torch_sqrt(alpha_bar_prev)), 1,
        scaled_noise(torch_sqrt(1 - alpha_bar_prev), options, model_output, denoised.scalar_type()));
  run_.advance();
  return {.prev_sample = prev_sample, .denoised = denoised};
}

}  // namespace diffusers
