#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/pndm_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/prediction.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(PNDMSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("skip_prk_steps", config.skip_prk_steps);
  visit("set_alpha_to_one", config.set_alpha_to_one);
  visit("prediction_type", config.prediction_type);
  visit("timestep_spacing", config.timestep_spacing);
  visit("steps_offset", config.steps_offset);
}

template class ConfiguredScheduler<PNDMScheduler, PNDMSchedulerConfig>;

PNDMScheduler::PNDMScheduler(PNDMSchedulerConfig config)
    : ConfiguredScheduler(std::move(config)), schedule_(beta_options(config_)) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kVPrediction});
}

Tensor PNDMScheduler::final_alpha_cumprod() const {
  return config_.set_alpha_to_one ? at::ones({}) : schedule_.alphas_cumprod()[0];
}

Tensor PNDMScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                const Tensor& timesteps) const {
  return schedule_.add_noise(original_samples, noise, timesteps);
}

void PNDMScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                  const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps, config_.num_train_timesteps);
  std::vector<double> spaced =
      spaced_timesteps(config_.timestep_spacing, config_.num_train_timesteps, n, config_.steps_offset);
  std::vector<double> values;
  prk_timesteps_.clear();
  if (config_.skip_prk_steps) {
    // The second timestep occurs twice: the first step is repeated with a better slope.
    values = spaced;
    if (n >= 2) values.insert(values.begin() + 1, spaced[1]);
  } else {
    require<ConfigError>(n >= 4,
                         "{}: num_inference_steps is {}, expected at least 4 unless skip_prk_steps is true",
                         kClassName, n);
    // Each of the first three steps visits its start, its midpoint twice, and its end.
    const int64_t half_ratio = config_.num_train_timesteps / n / 2;
    const auto half = static_cast<double>(half_ratio);
    for (std::size_t i = 0; i < 3; ++i)
      values.insert(values.end(), {spaced[i], spaced[i + 1] + half, spaced[i + 1] + half, spaced[i + 1]});
    for (const double t : values) prk_timesteps_.push_back(static_cast<int64_t>(t));
    values.insert(values.end(), spaced.begin() + 3, spaced.end());
  }
  timesteps_ = TimestepSchedule(std::move(values), at::kLong, options.device);
  num_inference_steps_ = n;
  start_ = 0;
  counter_ = 0;
  ets_.clear();
  cur_model_output_ = Tensor();
  cur_sample_ = Tensor();
}

SchedulerOutput PNDMScheduler::step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                                    const StepOptions& options) {
  require(num_inference_steps_ > 0, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t t = timesteps_.index_of_training_step(timestep, kClassName);
  require<TensorError>(t >= 0 && t < config_.num_train_timesteps,
                       "{}: step: timestep is {}, expected 0 to {}", kClassName, t,
                       config_.num_train_timesteps - 1);
  if (counter_ == 0) {
    const auto places = timesteps_.places_of(timestep);
    start_ = places ? places->front() : timesteps_.find(static_cast<double>(t));
    require<TensorError>(start_ >= 0, "{}: step: timestep {} is none of timesteps()", kClassName, t);
  }
  require(start_ + counter_ < timesteps_.size(),
          "{}: all {} steps are done; call set_timesteps to start again", kClassName, timesteps_.size());
  const auto warm_up = static_cast<int64_t>(prk_timesteps_.size());
  return counter_ < warm_up ? step_prk(model_output, t, sample) : step_plms(model_output, t, sample);
}

/// Runs one of the four evaluations of a Runge-Kutta step (Liu et al. 2022, eq. 13).
SchedulerOutput PNDMScheduler::step_prk(const Tensor& model_output, int64_t timestep, const Tensor& sample) {
  const int64_t stage = counter_ % 4;
  const int64_t prev_t =
      timestep - (counter_ % 2 != 0 ? 0 : config_.num_train_timesteps / num_inference_steps_ / 2);
  const int64_t t = prk_timesteps_[static_cast<std::size_t>(counter_ - stage)];
  Tensor slope = model_output;
  if (stage == 0) {
    cur_model_output_ = model_output * (1.0 / 6);
    ets_.push_back(model_output);
    cur_sample_ = sample;
  } else if (stage < 3) {
    cur_model_output_ = plus_scaled(cur_model_output_, 1.0 / 3, model_output);
  } else {
    slope = plus_scaled(cur_model_output_, 1.0 / 6, model_output);
    cur_model_output_ = Tensor();
  }
  ++counter_;
  return {.prev_sample = previous_sample(cur_sample_, t, prev_t, slope)};
}

/// Runs a step of the linear multistep method (Liu et al. 2022, eq. 12): Adams-Bashforth of the order that
/// the history allows.
SchedulerOutput PNDMScheduler::step_plms(const Tensor& model_output, int64_t timestep, const Tensor& sample) {
  const int64_t distance = config_.num_train_timesteps / num_inference_steps_;
  int64_t t = timestep;
  int64_t prev_t = timestep - distance;
  if (counter_ != 1) {
    if (ets_.size() > 3) ets_.erase(ets_.begin(), ets_.end() - 3);
    ets_.push_back(model_output);
  } else {
    // Repeats the first step with the mean of the slopes at both of its ends.
    prev_t = timestep;
    t = timestep + distance;
  }
  const auto et = [this](std::size_t back) { return ets_[ets_.size() - back]; };
  Tensor from = sample;
  Tensor slope;
  if (ets_.size() == 1 && counter_ == 0) {
    slope = model_output;
    cur_sample_ = sample;
  } else if (ets_.size() == 1 && counter_ == 1) {
    slope = at::add(model_output, et(1)).div_(2);
    from = cur_sample_;
    cur_sample_ = Tensor();
  } else if (ets_.size() == 2) {
    slope = weighted_sum(3, et(1), -1, et(2)).div_(2);
  } else if (ets_.size() == 3) {
    slope = scaled_sum({{23, et(1)}, {-16, et(2)}, {5, et(3)}}).div_(12);
  } else {
    slope = scaled_sum({{55, et(1)}, {-59, et(2)}, {37, et(3)}, {-9, et(4)}}).mul_(1.0 / 24);
  }
  const Tensor prev_sample = previous_sample(from, t, prev_t, slope);
  ++counter_;
  return {.prev_sample = prev_sample};
}

/// Computes the transfer function phi (Liu et al. 2022, eq. 9), which keeps a sample exactly on its noise
/// level.
Tensor PNDMScheduler::previous_sample(const Tensor& sample, int64_t t, int64_t prev_t,
                                      const Tensor& model_output) const {
  const float alpha_bar = schedule_.alpha_bar(t);
  const float alpha_bar_prev = prev_t >= 0                ? schedule_.alpha_bar(prev_t)
                               : config_.set_alpha_to_one ? 1.0f
                                                          : schedule_.alpha_bar(0);
  const float beta_bar = 1 - alpha_bar;
  require_signal(kClassName, alpha_bar, t, false);
  const Tensor epsilon = noise_prediction(config_.prediction_type, model_output, sample, alpha_bar);
  const float denominator =
      alpha_bar * torch_sqrt(1 - alpha_bar_prev) + torch_sqrt(alpha_bar * beta_bar * alpha_bar_prev);
  return add_scaled(at::mul(sample, torch_sqrt(alpha_bar_prev / alpha_bar)), -1,
                    at::mul(epsilon, alpha_bar_prev - alpha_bar).div_(denominator));
}

}  // namespace diffusers
