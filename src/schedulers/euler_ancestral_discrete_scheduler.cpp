#include <cmath>

#include <diffusers/schedulers/euler_ancestral_discrete_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(EulerAncestralDiscreteSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("prediction_type", config.prediction_type);
  visit("timestep_spacing", config.timestep_spacing);
  visit("steps_offset", config.steps_offset);
  visit("rescale_betas_zero_snr", config.rescale_betas_zero_snr);
}

template class ConfiguredScheduler<EulerAncestralDiscreteScheduler, EulerAncestralDiscreteSchedulerConfig>;

EulerAncestralDiscreteScheduler::EulerAncestralDiscreteScheduler(EulerAncestralDiscreteSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(finite_noise_schedule(beta_options(config_))) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kVPrediction});
  run_ = training_run(schedule_, at::kDouble);
}

double EulerAncestralDiscreteScheduler::init_noise_sigma() const {
  return karras_init_noise_sigma(run_, config_);
}

Tensor EulerAncestralDiscreteScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                                  const Tensor& timesteps) const {
  return karras_add_noise(run_, schedule_, original_samples, noise, timesteps, kClassName);
}

Tensor EulerAncestralDiscreteScheduler::scale_model_input(const Tensor& sample,
                                                          const Tensor& timestep) const {
  return karras_model_input(sample, run_.sigma(run_.index(timestep, kClassName)));
}

void EulerAncestralDiscreteScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                                    const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps);
  auto [timesteps, sigmas] =
      karras_schedule(config_.timestep_spacing, config_.num_train_timesteps, n, config_.steps_offset,
                      SigmaSpread::kPlain, training_sigmas(schedule_.alphas_cumprod()), {}, {});
  sigmas.push_back(0);
  run_ = SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), at::kFloat, options.device));
}

SchedulerOutput EulerAncestralDiscreteScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                                      const Tensor& sample, const StepOptions& options) {
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const float sigma = run_.sigma(i);
  const AncestralLevels levels = ancestral_levels(sigma, run_.sigma(i + 1));
  const Tensor x = sample.to(at::kFloat);
  const Tensor pred_original_sample = karras_data_prediction(config_.prediction_type, model_output, x, sigma);
  const Tensor prev_sample = add_scaled(euler_step(x, x, pred_original_sample, sigma, levels.down - sigma), 1,
                                        scaled_noise(levels.up, options, model_output));
  run_.advance();
  return {.prev_sample = prev_sample.to(model_output.scalar_type()),
          .pred_original_sample = pred_original_sample};
}

}  // namespace diffusers
