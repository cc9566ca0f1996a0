#include <cmath>

#include <diffusers/schedulers/heun_discrete_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(HeunDiscreteSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("prediction_type", config.prediction_type);
  visit("use_karras_sigmas", config.use_karras_sigmas);
  visit("use_exponential_sigmas", config.use_exponential_sigmas);
  visit("use_beta_sigmas", config.use_beta_sigmas);
  visit("clip_sample", config.clip_sample);
  visit("clip_sample_range", config.clip_sample_range);
  visit("timestep_spacing", config.timestep_spacing);
  visit("steps_offset", config.steps_offset);
}

template class ConfiguredScheduler<HeunDiscreteScheduler, HeunDiscreteSchedulerConfig>;

HeunDiscreteScheduler::HeunDiscreteScheduler(HeunDiscreteSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(finite_noise_schedule(beta_options(config_))) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction});
  check_clipping(kClassName, config_);
  sigma_spread(kClassName, config_);
  HeunDiscreteScheduler::set_timesteps(config_.num_train_timesteps);
}

double HeunDiscreteScheduler::init_noise_sigma() const { return karras_init_noise_sigma(run_, config_); }

Tensor HeunDiscreteScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                        const Tensor& timesteps) const {
  return karras_add_noise(run_, schedule_, original_samples, noise, timesteps, kClassName);
}

Tensor HeunDiscreteScheduler::scale_model_input(const Tensor& sample, const Tensor& timestep) const {
  return karras_model_input(sample, run_.sigma(run_.index(timestep, kClassName)));
}

void HeunDiscreteScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                          const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.timesteps = true, .num_train_timesteps = true});
  const bool custom = !options.timesteps.empty();
  require<ConfigError>(custom != num_inference_steps.has_value(),
                       "{}: set_timesteps takes exactly one of num_inference_steps and timesteps",
                       kClassName);
  const SigmaSpread spread = sigma_spread(kClassName, config_);
  require<ConfigError>(!custom || spread == SigmaSpread::kPlain,
                       "{}: timesteps cannot be given with karras, exponential or beta sigmas", kClassName);
  const int64_t n = custom ? static_cast<int64_t>(options.timesteps.size())
                           : checked_num_inference_steps(kClassName, num_inference_steps);
  auto [timesteps, sigmas] = karras_schedule(
      config_.timestep_spacing, options.num_train_timesteps.value_or(config_.num_train_timesteps), n,
      config_.steps_offset, spread, training_sigmas(schedule_.alphas_cumprod()), hidden_number("sigma_min"),
      hidden_number("sigma_max"), options.timesteps);
  sigmas.push_back(0);
  run_ = SigmaRun(doubled(sigmas, false),
                  TimestepSchedule(doubled(timesteps, true), at::kFloat, options.device), /*stages=*/2);
  prev_derivative_ = Tensor();
  sample_ = Tensor();
}

SchedulerOutput HeunDiscreteScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                            const Tensor& sample, const StepOptions& options) {
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const bool first_order = !prev_derivative_.defined();
  const float sigma = run_.sigma(first_order ? i : i - 1);
  const float sigma_next = run_.sigma(first_order ? i + 1 : i);
  const float sigma_input = first_order ? sigma : sigma_next;

  const Tensor pred_original_sample =
      clip_or_threshold(karras_data_prediction(config_.prediction_type, model_output, sample, sigma_input),
                        config_, model_output);
  Tensor derivative = at::sub(sample, pred_original_sample).div_(sigma_input);
  Tensor from = sample;
  if (first_order) {
    prev_derivative_ = derivative;
    sample_ = sample;
  } else {
    derivative.add_(prev_derivative_).div_(2);
    from = sample_;
    prev_derivative_ = Tensor();
    sample_ = Tensor();
  }
  run_.advance();
  return {.prev_sample = plus_scaled(from, sigma_next - sigma, derivative),
          .pred_original_sample = pred_original_sample};
}

}  // namespace diffusers
