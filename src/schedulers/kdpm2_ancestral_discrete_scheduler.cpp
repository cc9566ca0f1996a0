#include <cmath>

#include <diffusers/schedulers/kdpm2_ancestral_discrete_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(KDPM2AncestralDiscreteSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("use_karras_sigmas", config.use_karras_sigmas);
  visit("use_exponential_sigmas", config.use_exponential_sigmas);
  visit("use_beta_sigmas", config.use_beta_sigmas);
  visit("prediction_type", config.prediction_type);
  visit("timestep_spacing", config.timestep_spacing);
  visit("steps_offset", config.steps_offset);
}

template class ConfiguredScheduler<KDPM2AncestralDiscreteScheduler, KDPM2AncestralDiscreteSchedulerConfig>;

KDPM2AncestralDiscreteScheduler::KDPM2AncestralDiscreteScheduler(KDPM2AncestralDiscreteSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(finite_noise_schedule(beta_options(config_))) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kVPrediction});
  sigma_spread(kClassName, config_);
  KDPM2AncestralDiscreteScheduler::set_timesteps(config_.num_train_timesteps);
}

double KDPM2AncestralDiscreteScheduler::init_noise_sigma() const {
  return karras_init_noise_sigma(run_, config_);
}

Tensor KDPM2AncestralDiscreteScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                                  const Tensor& timesteps) const {
  return karras_add_noise(run_, schedule_, original_samples, noise, timesteps, kClassName);
}

Tensor KDPM2AncestralDiscreteScheduler::scale_model_input(const Tensor& sample,
                                                          const Tensor& timestep) const {
  const int64_t i = run_.index(timestep, kClassName);
  return karras_model_input(
      sample, sample_.defined() ? sigmas_interpol_.at(static_cast<std::size_t>(i - 1)) : run_.sigma(i));
}

void KDPM2AncestralDiscreteScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                                    const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.num_train_timesteps = true});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps);
  const SigmaSpread spread = sigma_spread(kClassName, config_);
  const std::vector<double> training = training_sigmas(schedule_.alphas_cumprod());
  auto [timesteps, sigmas] = karras_schedule(
      config_.timestep_spacing, options.num_train_timesteps.value_or(config_.num_train_timesteps), n,
      config_.steps_offset, spread, training, hidden_number("sigma_min"), hidden_number("sigma_max"));
  if (spread == SigmaSpread::kKarras)
    for (double& t : timesteps) t = std::nearbyint(t);
  sigmas.push_back(0);

  std::vector<double> up(sigmas.size(), 0.0);
  std::vector<double> down(sigmas.size(), 0.0);
  std::vector<float> middles(sigmas.size(), 0.0f);
  for (std::size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const AncestralLevels levels =
        ancestral_levels(static_cast<float>(sigmas[i]), static_cast<float>(sigmas[i + 1]));
    up[i] = levels.up;
    down[i] = levels.down;
    // If the difference of squares was rounded to 0, the logarithm uses the exact level.
    const double lower = down[i] > 0 ? down[i] : sigmas[i + 1] * sigmas[i + 1] / sigmas[i];
    if (i + 2 < sigmas.size()) middles[i] = log_midpoint(sigmas[i], lower);
  }
  std::vector<double> visited{timesteps.front()};
  const auto middle_timesteps = sigmas_to_timesteps(middles, training, /*as_tensors=*/true);
  for (std::size_t i = 1; i < timesteps.size(); ++i) {
    visited.push_back(middle_timesteps[i - 1]);
    visited.push_back(timesteps[i]);
  }
  const auto narrowed = [](const std::vector<double>& values) {
    const std::vector<double> twice = doubled_and_closed(values);
    return std::vector<float>(twice.begin(), twice.end());
  };
  sigmas_interpol_ = narrowed({middles.begin(), middles.end()});
  sigmas_up_ = narrowed(up);
  sigmas_down_ = narrowed(down);
  run_ = SigmaRun(doubled_and_closed(sigmas),
                  TimestepSchedule(std::move(visited), kdpm2_timestep_dtype(spread), options.device),
                  /*stages=*/2);
  sample_ = Tensor();
}

SchedulerOutput KDPM2AncestralDiscreteScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                                      const Tensor& sample, const StepOptions& options) {
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const bool first_order = !sample_.defined();
  const auto level = static_cast<std::size_t>(first_order ? i : i - 1);
  const float sigma = run_.sigma(first_order ? i : i - 1);
  const float sigma_middle = sigmas_interpol_.at(level);
  const float sigma_input = first_order ? sigma : sigma_middle;

  const Tensor pred_original_sample =
      karras_data_prediction(config_.prediction_type, model_output, sample, sigma_input);
  Tensor prev_sample;
  if (first_order) {
    prev_sample = euler_step(sample, sample, pred_original_sample, sigma_input, sigma_middle - sigma);
    sample_ = sample;
  } else {
    prev_sample =
        euler_step(sample_, sample, pred_original_sample, sigma_input, sigmas_down_.at(level) - sigma);
    prev_sample = add_scaled(prev_sample, 1, scaled_noise(sigmas_up_.at(level), options, model_output));
    sample_ = Tensor();
  }
  run_.advance();
  return {.prev_sample = prev_sample, .pred_original_sample = pred_original_sample};
}

}  // namespace diffusers
