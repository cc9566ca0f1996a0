#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/unclip_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/prediction.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(UnCLIPSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("variance_type", config.variance_type);
  visit("clip_sample", config.clip_sample);
  visit("clip_sample_range", config.clip_sample_range);
  visit("prediction_type", config.prediction_type);
  visit("beta_schedule", config.beta_schedule);
}

template class ConfiguredScheduler<UnCLIPScheduler, UnCLIPSchedulerConfig>;

UnCLIPScheduler::UnCLIPScheduler(UnCLIPSchedulerConfig config)
    : ConfiguredScheduler(std::move(config)),
      schedule_(BetaOptions{.num_train_timesteps = config_.num_train_timesteps,
                            .beta_schedule = BetaSchedule::kSquaredcosCapV2}),
      timesteps_(training_timesteps(config_.num_train_timesteps), at::kLong) {
  require<ConfigError>(config_.beta_schedule == BetaSchedule::kSquaredcosCapV2,
                       "{}: beta_schedule is \"{}\", expected \"squaredcos_cap_v2\"", kClassName,
                       config_.beta_schedule.name());
  require<ConfigError>(config_.variance_type == VarianceType::kFixedSmallLog ||
                           config_.variance_type == VarianceType::kLearnedRange,
                       "{}: variance_type is \"{}\", expected fixed_small_log or learned_range", kClassName,
                       config_.variance_type.name());
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample});
  check_clipping(kClassName, config_);
}

Tensor UnCLIPScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                  const Tensor& timesteps) const {
  return schedule_.add_noise(original_samples, noise, timesteps);
}

void UnCLIPScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                    const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps, config_.num_train_timesteps);
  require<ConfigError>(n >= 2, "{}: num_inference_steps is {}, expected at least 2", kClassName, n);
  const double ratio = static_cast<double>(config_.num_train_timesteps - 1) / static_cast<double>(n - 1);
  std::vector<double> values;
  for (int64_t i = n - 1; i >= 0; --i) values.push_back(std::nearbyint(static_cast<double>(i) * ratio));
  timesteps_ = TimestepSchedule(std::move(values), at::kLong, options.device);
}

SchedulerOutput UnCLIPScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                      const Tensor& sample, const StepOptions& options) {
  const int64_t t = timesteps_.index_of_training_step(timestep, kClassName);
  return step_to(model_output, t, t - 1, sample, options);
}

SchedulerOutput UnCLIPScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                      const Tensor& sample, int64_t prev_timestep,
                                      const StepOptions& options) {
  const int64_t t = timesteps_.index_of_training_step(timestep, kClassName);
  require<TensorError>(prev_timestep < t, "{}: step: prev_timestep is {}, expected one before {}", kClassName,
                       prev_timestep, t);
  return step_to(model_output, t, prev_timestep, sample, options);
}

SchedulerOutput UnCLIPScheduler::step_to(const Tensor& model_output, int64_t t, int64_t prev_t,
                                         const Tensor& sample, const StepOptions& options) const {
  const bool learned = config_.variance_type == VarianceType::kLearnedRange;
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample, learned);
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
  const float beta = prev_t == t - 1 ? schedule_.beta(t) : 1 - alpha_bar / alpha_bar_prev;
  const float alpha = 1 - beta;

  const Tensor pred_original_sample = clip_or_threshold(
      data_prediction(config_.prediction_type, prediction, sample, alpha_bar), config_, prediction);
  // Mean of q(x_{t'} | x_t, x_0) (Ho et al. 2020, eq. 7)
  Tensor prev_sample = weighted_sum(torch_sqrt(alpha_bar_prev) * beta / beta_bar, pred_original_sample,
                                    torch_sqrt(alpha) * beta_bar_prev / beta_bar, sample);
  if (t > 0) {
    const Tensor noise = step_noise(options, prediction);
    const float variance = beta_bar_prev / beta_bar * beta;
    if (learned) {
      const Tensor fraction = (predicted_variance + 1) / 2;
      const Tensor log_variance = fraction * torch_log(beta) + (1 - fraction) * torch_log(variance);
      prev_sample = add_scaled(prev_sample, 1, (0.5 * log_variance).exp() * noise);
    } else {
      prev_sample = add_scaled(
          prev_sample, 1, scaled_in_place(noise, torch_exp(0.5f * torch_log(std::max(variance, 1e-20f)))));
    }
  }
  return {.prev_sample = prev_sample, .pred_original_sample = pred_original_sample};
}

}  // namespace diffusers
