#include <algorithm>
#include <cmath>

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/repaint_scheduler.h>

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

#include "core/require.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(RePaintSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("eta", config.eta);
  visit("trained_betas", config.trained_betas);
  visit("clip_sample", config.clip_sample);
}

template class ConfiguredScheduler<RePaintScheduler, RePaintSchedulerConfig>;

RePaintScheduler::RePaintScheduler(RePaintSchedulerConfig config)
    : ConfiguredScheduler(std::move(config)),
      schedule_(beta_options(config_)),
      timesteps_(training_timesteps(config_.num_train_timesteps), at::kLong) {
  require<ConfigError>(config_.eta >= 0 && config_.eta <= 1, "{}: eta is {}, expected 0 to 1", kClassName,
                       config_.eta);
}

Tensor RePaintScheduler::final_alpha_cumprod() const { return at::ones({}); }

void RePaintScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                     const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  set_timesteps(checked_num_inference_steps(kClassName, num_inference_steps), 10, 10, options.device);
}

void RePaintScheduler::set_timesteps(int64_t num_inference_steps, int64_t jump_length, int64_t jump_n_sample,
                                     at::Device device) {
  checked_num_inference_steps(kClassName, num_inference_steps);
  require<ConfigError>(jump_length >= 1 && jump_n_sample >= 1,
                       "{}: jump_length is {} and jump_n_sample {}, expected at least 1", kClassName,
                       jump_length, jump_n_sample);
  const int64_t n = std::min(config_.num_train_timesteps, num_inference_steps);
  // Lugmayr et al. 2022, algorithm 1 and figure 9
  std::vector<int64_t> jumps(static_cast<std::size_t>(n), 0);
  for (int64_t j = 0; j < n - jump_length; j += jump_length)
    jumps[static_cast<std::size_t>(j)] = jump_n_sample - 1;
  const int64_t distance = config_.num_train_timesteps / n;
  std::vector<double> values;
  for (int64_t t = n; t >= 1;) {
    --t;
    values.push_back(static_cast<double>(t * distance));
    if (jumps[static_cast<std::size_t>(t)] > 0) {
      --jumps[static_cast<std::size_t>(t)];
      for (int64_t k = 0; k < jump_length; ++k) values.push_back(static_cast<double>(++t * distance));
    }
  }
  timesteps_ = TimestepSchedule(std::move(values), at::kLong, device);
  num_inference_steps_ = n;
}

SchedulerOutput RePaintScheduler::step(const Tensor&, const Tensor&, const Tensor&, const StepOptions&) {
  fail("{}: step needs the original image and the mask", kClassName);
}

SchedulerOutput RePaintScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                       const Tensor& sample, const Tensor& original_image, const Tensor& mask,
                                       const StepOptions& options) {
  require(num_inference_steps_ > 0, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  require<TensorError>(original_image.defined() && original_image.sizes() == sample.sizes() &&
                           original_image.device() == sample.device(),
                       "{}: step: original_image is {}, expected {} like the sample", kClassName,
                       describe(original_image), describe(sample));
  require<TensorError>(mask.defined() && mask.device() == sample.device() &&
                           at::is_expandable_to(mask.sizes(), sample.sizes()),
                       "{}: step: mask is {}, expected one that broadcasts to {}", kClassName, describe(mask),
                       describe(sample));
  const int64_t t = timesteps_.index_of_training_step(timestep, kClassName);
  const int64_t prev_t = t - config_.num_train_timesteps / num_inference_steps_;
  const float alpha_bar = schedule_.alpha_bar(t);
  const float alpha_bar_prev = prev_t >= 0 ? schedule_.alpha_bar(prev_t) : 1.0f;
  const float beta_bar = 1 - alpha_bar;
  require_signal(kClassName, alpha_bar, t, config_.clip_sample);
  require<ConfigError>(beta_bar > 0, "{}: step: there is no noise at timestep {}", kClassName, t);

  // Products and sums are rounded one by one as in Python, because the jumps amplify any difference.
  Tensor pred_original_sample =
      at::mul(model_output, -torch_sqrt(beta_bar)).add_(sample).div_(signal_scale(alpha_bar));
  if (config_.clip_sample) pred_original_sample.clamp_(-1, 1);
  const Tensor noise = step_noise(options, model_output);
  const float variance = (1 - alpha_bar_prev) / beta_bar * std::max(1 - alpha_bar / alpha_bar_prev, 0.0f);
  const float sigma = static_cast<float>(config_.eta) * torch_sqrt(variance);
  Tensor unknown_part = torch_sqrt(alpha_bar_prev) * pred_original_sample;
  unknown_part.add_(ddim_direction(kClassName, alpha_bar_prev, sigma, config_.eta) * model_output);
  if (t > 0 && config_.eta > 0) unknown_part.add_(sigma * noise);
  // Lugmayr et al. 2022, eq. 8
  Tensor known_part = torch_sqrt(alpha_bar_prev) * original_image;
  known_part.add_(torch_sqrt(1 - alpha_bar_prev) * noise);
  return {.prev_sample = known_part.mul_(mask).add_(unknown_part.mul_(1.0 - mask)),
          .pred_original_sample = pred_original_sample};
}

Tensor RePaintScheduler::undo_step(const Tensor& sample, const Tensor& timestep,
                                   const std::optional<Generator>& generator) const {
  require(num_inference_steps_ > 0, "{}: call set_timesteps before undo_step", kClassName);
  check_step_tensors(kClassName, sample, sample);
  const int64_t t = timesteps_.index_of_training_step(timestep, kClassName);
  Tensor x = sample;
  for (int64_t i = 0; i < config_.num_train_timesteps / num_inference_steps_; ++i) {
    const float beta = schedule_.beta(t + i);
    x = torch_sqrt(1 - beta) * x +
        torch_sqrt(beta) * randn_tensor(x.sizes(), generator, x.device(), x.scalar_type());
  }
  return x;
}

}  // namespace diffusers
