#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/cm_stochastic_iterative_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(CMStochasticIterativeSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("sigma_min", config.sigma_min);
  visit("sigma_max", config.sigma_max);
  visit("sigma_data", config.sigma_data);
  visit("s_noise", config.s_noise);
  visit("rho", config.rho);
  visit("clip_denoised", config.clip_denoised);
}

template class ConfiguredScheduler<CMStochasticIterativeScheduler, CMStochasticIterativeSchedulerConfig>;

CMStochasticIterativeScheduler::CMStochasticIterativeScheduler(CMStochasticIterativeSchedulerConfig config)
    : SigmaScheduler(std::move(config)) {
  require<ConfigError>(config_.num_train_timesteps >= 2 && config_.num_train_timesteps <= 10'000'000,
                       "{}: num_train_timesteps is {}, expected 2 to 10000000", kClassName,
                       config_.num_train_timesteps);
  require<ConfigError>(
      config_.sigma_min > 0 && config_.sigma_min < config_.sigma_max && config_.sigma_data > 0 &&
          config_.rho > 0 && std::isfinite(config_.sigma_max),
      "{}: sigma_min {}, sigma_max {}, sigma_data {} and rho {} must be positive, sigma_min the smaller",
      kClassName, config_.sigma_min, config_.sigma_max, config_.sigma_data, config_.rho);
  run_ = run_at(linspace(0, 1, config_.num_train_timesteps), false, at::kCPU);
}

SigmaRun CMStochasticIterativeScheduler::run_at(const std::vector<double>& positions, bool closed,
                                                at::Device device) const {
  const double low = std::pow(config_.sigma_min, 1 / config_.rho);
  const double high = std::pow(config_.sigma_max, 1 / config_.rho);
  std::vector<double> sigmas;
  std::vector<double> timesteps;
  for (const double position : positions) {
    sigmas.push_back(std::pow(high + position * (low - high), config_.rho));
    timesteps.push_back(1000 * 0.25 * std::log(sigmas.back() + 1e-44));
  }
  if (closed) sigmas.push_back(config_.sigma_min);
  return SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), at::kDouble, device));
}

Tensor CMStochasticIterativeScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                                 const Tensor& timesteps) const {
  require_noisable(original_samples, noise);
  return (noise * run_.per_sample_sigmas(timesteps, original_samples, {}, kClassName)).add_(original_samples);
}

Tensor CMStochasticIterativeScheduler::scale_model_input(const Tensor& sample, const Tensor& timestep) const {
  const float sigma = run_.sigma(run_.index(timestep, kClassName));
  return sample / torch_sqrt(sigma * sigma + static_cast<float>(config_.sigma_data * config_.sigma_data));
}

void CMStochasticIterativeScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                                   const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.timesteps = true});
  const int64_t total = config_.num_train_timesteps;
  std::vector<double> values = options.timesteps;
  if (values.empty()) {
    const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps, total);
    values = spaced_timesteps(TimestepSpacing::kLeading, total, n);
  } else {
    require<ConfigError>(!num_inference_steps,
                         "{}: set_timesteps takes num_inference_steps or timesteps, not both", kClassName);
    check_custom_timesteps(kClassName, values, total);
  }
  // Position 0 of the schedule is sigma_max.
  std::reverse(values.begin(), values.end());
  for (double& value : values) value /= static_cast<double>(total - 1);
  run_ = run_at(values, true, options.device);
}

SchedulerOutput CMStochasticIterativeScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                                     const Tensor& sample, const StepOptions& options) {
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const float sigma = run_.sigma(i);
  const float sigma_next = run_.sigma(std::min(i + 1, run_.num_sigmas() - 1));
  const auto sigma_min = static_cast<float>(config_.sigma_min);
  const auto data = static_cast<float>(config_.sigma_data);
  const auto data_squared = static_cast<float>(config_.sigma_data * config_.sigma_data);

  // Boundary condition f(x, sigma_min) = x (Song et al. 2023, eq. 20)
  const float above = sigma - sigma_min;
  const float c_skip = 1 / (above * above + data_squared) * data_squared;
  const float c_out = above * data / torch_sqrt(sigma * sigma + data_squared);
  Tensor denoised = weighted_sum(c_out, model_output, c_skip, sample);
  if (config_.clip_denoised) denoised.clamp_(-1, 1);
  Tensor prev_sample = denoised;
  if (run_.timesteps().size() > 1) {
    const auto sigma_min_squared = static_cast<float>(config_.sigma_min * config_.sigma_min);
    const float sigma_hat = std::clamp(sigma_next, sigma_min, static_cast<float>(config_.sigma_max));
    const float added = torch_sqrt(std::max(sigma_hat * sigma_hat - sigma_min_squared, 0.0f));
    const Tensor noise = step_noise(options, model_output);
    if (config_.s_noise != 1) scaled_in_place(noise, config_.s_noise);
    prev_sample = add_scaled(scaled_in_place(noise, added), 1, denoised);
  }
  run_.advance();
  return {.prev_sample = prev_sample, .denoised = denoised};
}

}  // namespace diffusers
