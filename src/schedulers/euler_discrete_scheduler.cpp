#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/euler_discrete_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(EulerDiscreteSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("prediction_type", config.prediction_type);
  visit("interpolation_type", config.interpolation_type);
  visit("use_karras_sigmas", config.use_karras_sigmas);
  visit("use_exponential_sigmas", config.use_exponential_sigmas);
  visit("use_beta_sigmas", config.use_beta_sigmas);
  visit("sigma_min", config.sigma_min);
  visit("sigma_max", config.sigma_max);
  visit("timestep_spacing", config.timestep_spacing);
  visit("timestep_type", config.timestep_type);
  visit("steps_offset", config.steps_offset);
  visit("rescale_betas_zero_snr", config.rescale_betas_zero_snr);
  visit("final_sigmas_type", config.final_sigmas_type);
}

template class ConfiguredScheduler<EulerDiscreteScheduler, EulerDiscreteSchedulerConfig>;

EulerDiscreteScheduler::EulerDiscreteScheduler(EulerDiscreteSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(finite_noise_schedule(beta_options(config_))) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kOriginalSample,
                         PredictionType::kVPrediction});
  sigma_spread(kClassName, config_);
  run_ = training_run(schedule_, at::kFloat, EulerDiscreteScheduler::has_continuous_timesteps());
}

bool EulerDiscreteScheduler::has_continuous_timesteps() const {
  return config_.timestep_type == TimestepType::kContinuous &&
         config_.prediction_type == PredictionType::kVPrediction;
}

double EulerDiscreteScheduler::init_noise_sigma() const { return karras_init_noise_sigma(run_, config_); }

Tensor EulerDiscreteScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                         const Tensor& timesteps) const {
  return karras_add_noise(run_, schedule_, original_samples, noise, timesteps, kClassName);
}

Tensor EulerDiscreteScheduler::get_velocity(const Tensor& sample, const Tensor& noise,
                                            const Tensor& timesteps) const {
  if (!timesteps.defined() || at::isIntegralType(timesteps.scalar_type(), /*includeBool=*/false))
    return schedule_.get_velocity(sample, noise, timesteps);
  // As in Python, abar is taken at the position of the timestep in the run.
  require_noisable(sample, noise);
  require<ConfigError>(run_.timesteps().size() <= schedule_.size(),
                       "{}: get_velocity: the run has {} timesteps, more than the {} training timesteps",
                       kClassName, run_.timesteps().size(), schedule_.size());
  return schedule_.get_velocity(sample, noise, run_.per_sample_positions(timesteps, sample, kClassName));
}

Tensor EulerDiscreteScheduler::scale_model_input(const Tensor& sample, const Tensor& timestep) const {
  return karras_model_input(sample, run_.sigma(run_.index(timestep, kClassName)));
}

void EulerDiscreteScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                           const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.sigmas = true, .timesteps = true});
  const bool custom_timesteps = !options.timesteps.empty();
  const bool custom_sigmas = !options.sigmas.empty();
  require<ConfigError>(num_inference_steps.has_value() + custom_timesteps + custom_sigmas == 1,
                       "{}: set_timesteps takes exactly one of num_inference_steps, timesteps and sigmas",
                       kClassName);
  const SigmaSpread spread = sigma_spread(kClassName, config_);
  require<ConfigError>(
      !custom_timesteps || (spread == SigmaSpread::kPlain && !has_continuous_timesteps()),
      "{}: timesteps cannot be given with karras, exponential or beta sigmas or continuous timesteps",
      kClassName);
  const std::vector<double> training = training_sigmas(schedule_.alphas_cumprod());
  std::vector<double> sigmas = options.sigmas;
  std::vector<double> timesteps;
  if (custom_sigmas) {
    require<ConfigError>(sigmas.size() >= 2, "{}: sigmas must hold at least two levels", kClassName);
    for (std::size_t i = 0; i < sigmas.size(); ++i)
      require<ConfigError>(
          std::isfinite(sigmas[i]) && (sigmas[i] > 0 || (sigmas[i] == 0 && i + 1 == sigmas.size())),
          "{}: sigmas holds {}, expected positive numbers and at most the last of them 0", kClassName,
          sigmas[i]);
    timesteps = sigmas_to_timesteps(std::vector<float>(sigmas.begin(), sigmas.end() - 1), training,
                                    /*as_tensors=*/false);
  } else {
    const int64_t n = custom_timesteps ? static_cast<int64_t>(options.timesteps.size())
                                       : checked_num_inference_steps(kClassName, num_inference_steps);
    auto plain =
        karras_schedule(config_.timestep_spacing, config_.num_train_timesteps, n, config_.steps_offset,
                        SigmaSpread::kPlain, training, {}, {}, options.timesteps);
    timesteps = plain.timesteps;
    sigmas = plain.sigmas;
    if (config_.interpolation_type == InterpolationType::kLogLinear) {
      const Tensor levels = at::linspace(numpy_log(static_cast<float>(training.back())),
                                         numpy_log(static_cast<float>(training.front())), n + 1, at::kFloat)
                                .exp();
      sigmas.assign(levels.const_data_ptr<float>(), levels.const_data_ptr<float>() + n + 1);
    }
    if (spread != SigmaSpread::kPlain) {
      sigmas = spread_sigmas(spread, sigmas, n, config_.sigma_min, config_.sigma_max);
      timesteps = sigmas_to_timesteps(sigmas, training);
    }
    sigmas.push_back(config_.final_sigmas_type == FinalSigmasType::kZero ? 0.0 : training.front());
  }
  if (has_continuous_timesteps()) {
    // One for each step. log_linear has one more level, which discrete timesteps do not use either.
    for (std::size_t i = 0; i < timesteps.size(); ++i)
      timesteps[i] = 0.25f * torch_log(static_cast<float>(sigmas[i]));
  }
  run_ = SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), at::kFloat, options.device));
}

SchedulerOutput EulerDiscreteScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                             const Tensor& sample, const StepOptions& options) {
  check_step_options(kClassName, options, {.churn = true, .s_noise = true});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const float sigma = run_.sigma(i);
  // Karras et al. 2022, algorithm 2: raise the noise level before the step.
  const float sigma_hat = churned_sigma(options, sigma, run_.num_sigmas() - 1);
  const Tensor x = churned_sample(sample, options, model_output, sigma, sigma_hat);

  const Tensor pred_original_sample =
      config_.prediction_type == PredictionType::kVPrediction
          ? karras_data_prediction(config_.prediction_type, model_output, x, sigma)
          : karras_data_prediction(config_.prediction_type, model_output, x, sigma_hat);
  const Tensor prev_sample = euler_step(x, x, pred_original_sample, sigma_hat, run_.sigma(i + 1) - sigma_hat);
  run_.advance();
  return {.prev_sample = prev_sample.to(model_output.scalar_type()),
          .pred_original_sample = pred_original_sample};
}

}  // namespace diffusers
