#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/ddpm_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/prediction.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(DDPMSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("variance_type", config.variance_type);
  visit("clip_sample", config.clip_sample);
  visit("prediction_type", config.prediction_type);
  visit("thresholding", config.thresholding);
  visit("dynamic_thresholding_ratio", config.dynamic_thresholding_ratio);
  visit("clip_sample_range", config.clip_sample_range);
  visit("sample_max_value", config.sample_max_value);
  visit("timestep_spacing", config.timestep_spacing);
  visit("steps_offset", config.steps_offset);
  visit("rescale_betas_zero_snr", config.rescale_betas_zero_snr);
}

template class ConfiguredScheduler<DDPMScheduler, DDPMSchedulerConfig>;

DDPMScheduler::DDPMScheduler(DDPMSchedulerConfig config)
    : ConfiguredScheduler(std::move(config)),
      schedule_(beta_options(config_)),
      timesteps_(training_timesteps(config_.num_train_timesteps), at::kLong) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction});
  check_clipping(kClassName, config_);
}

Tensor DDPMScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                const Tensor& timesteps) const {
  return schedule_.add_noise(original_samples, noise, timesteps);
}

Tensor DDPMScheduler::get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const {
  return schedule_.get_velocity(sample, noise, timesteps);
}

void DDPMScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                  const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.timesteps = true});
  std::vector<double> values;
  if (!options.timesteps.empty()) {
    require<ConfigError>(!num_inference_steps,
                         "{}: set_timesteps takes num_inference_steps or timesteps, not both", kClassName);
    check_custom_timesteps(kClassName, options.timesteps, config_.num_train_timesteps);
    values = options.timesteps;
  } else {
    const int64_t n =
        checked_num_inference_steps(kClassName, num_inference_steps, config_.num_train_timesteps);
    values = spaced_timesteps(config_.timestep_spacing, config_.num_train_timesteps, n, config_.steps_offset);
  }
  timesteps_ = TimestepSchedule(std::move(values), at::kLong, options.device);
  timesteps_set_ = true;
}

int64_t DDPMScheduler::previous_timestep(int64_t timestep) const {
  return timesteps_set_ ? timesteps_.following(timestep, kClassName) : timestep - 1;
}

SchedulerOutput DDPMScheduler::step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                                    const StepOptions& options) {
  const bool learned =
      config_.variance_type == VarianceType::kLearned || config_.variance_type == VarianceType::kLearnedRange;
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample, learned);

  const int64_t t = timesteps_.index_of_training_step(timestep, kClassName);
  const int64_t prev_t = previous_timestep(t);
  Tensor prediction = model_output;
  Tensor predicted_variance;
  if (learned) {
    const auto halves = model_output.chunk(2, 1);
    prediction = halves[0];
    predicted_variance = halves[1];
  }

  const float alpha_bar = schedule_.alpha_bar(t);
  const float alpha_bar_prev = prev_t >= 0 ? schedule_.alpha_bar(prev_t) : 1.0f;
  const float beta_bar = 1 - alpha_bar;
  const float beta_bar_prev = 1 - alpha_bar_prev;
  const float alpha = alpha_bar / alpha_bar_prev;
  const float beta = 1 - alpha;
  require<ConfigError>(
      beta_bar > 0 && alpha_bar_prev > 0,
      "{}: step: the posterior at timestep {} is undefined, since abar is {} there and {} before", kClassName,
      t, alpha_bar, alpha_bar_prev);

  if (config_.prediction_type == PredictionType::kEpsilon)
    require_signal(kClassName, alpha_bar, t, config_.clip_sample || config_.thresholding);
  const Tensor pred_original_sample = clip_or_threshold(
      data_prediction(config_.prediction_type, prediction, sample, alpha_bar), config_, prediction);

  // The mean of q(x_{t-1} | x_t, x_0), eq. 7.
  Tensor prev_sample = weighted_sum(torch_sqrt(alpha_bar_prev) * beta / beta_bar, pred_original_sample,
                                    torch_sqrt(alpha) * beta_bar_prev / beta_bar, sample);
  if (t > 0) {
    const Tensor noise = step_noise(options, prediction);
    // beta~_t of eq. 7, clamped because the posterior variance is 0 at the beginning of the chain.
    const float posterior_variance = std::max(beta_bar_prev / beta_bar * beta, 1e-20f);
    switch (config_.variance_type) {
      case VarianceType::kFixedSmall:
        prev_sample = add_scaled(prev_sample, 1, scaled_in_place(noise, torch_sqrt(posterior_variance)));
        break;
      case VarianceType::kFixedSmallLog:
        prev_sample = add_scaled(prev_sample, 1,
                                 scaled_in_place(noise, torch_exp(0.5f * torch_log(posterior_variance))));
        break;
      case VarianceType::kFixedLarge:
        prev_sample = add_scaled(prev_sample, 1, scaled_in_place(noise, torch_sqrt(beta)));
        break;
      case VarianceType::kFixedLargeLog:
        prev_sample = add_scaled(prev_sample, 1, scaled_in_place(noise, torch_exp(0.5f * torch_log(beta))));
        break;
      case VarianceType::kLearned:
        prev_sample = add_scaled(prev_sample, 1, predicted_variance.sqrt() * noise);
        break;
      case VarianceType::kLearnedRange: {
        // Interpolation between the two fixed variances in log space (Nichol and Dhariwal 2021, eq. 15).
        const Tensor fraction = (predicted_variance + 1) / 2;
        const Tensor log_variance =
            fraction * torch_log(beta) + (1 - fraction) * torch_log(posterior_variance);
        prev_sample = add_scaled(prev_sample, 1, (0.5 * log_variance).exp() * noise);
        break;
      }
    }
  }
  return {.prev_sample = prev_sample,
          .pred_original_sample = pred_original_sample,
          .denoised = {},
          .pred_noised_sample = {}};
}

}  // namespace diffusers
