#include <cmath>

#include <diffusers/schedulers/flow_match_heun_discrete_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(FlowMatchHeunDiscreteSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("shift", config.shift);
}

template class ConfiguredScheduler<FlowMatchHeunDiscreteScheduler, FlowMatchHeunDiscreteSchedulerConfig>;

FlowMatchHeunDiscreteScheduler::FlowMatchHeunDiscreteScheduler(FlowMatchHeunDiscreteSchedulerConfig config)
    : SigmaScheduler(std::move(config)) {
  check_flow_config(kClassName, config_.num_train_timesteps, config_.shift);
  run_ = flow_training_run(config_.num_train_timesteps, config_.shift);
  sigma_max_ = run_.sigma(0);
  sigma_min_ = run_.sigma(run_.num_sigmas() - 1);
}

Tensor FlowMatchHeunDiscreteScheduler::scale_noise(const Tensor& sample, const Tensor& timestep,
                                                   const Tensor& noise) const {
  require_noisable(sample, noise);
  const float sigma = run_.sigma(run_.index(timestep, kClassName));
  return weighted_sum(sigma, noise, 1.0 - sigma, sample);
}

void FlowMatchHeunDiscreteScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                                   const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps);
  const auto total = static_cast<double>(config_.num_train_timesteps);
  std::vector<double> sigmas = linspace(sigma_max_ * total, sigma_min_ * total, n);
  std::vector<double> timesteps;
  for (double& sigma : sigmas) {
    sigma = shifted_sigma(sigma / total, config_.shift);
    timesteps.push_back(static_cast<float>(sigma) * static_cast<float>(total));
  }
  sigmas.push_back(0);
  run_ = SigmaRun(doubled(sigmas, false),
                  TimestepSchedule(doubled(timesteps, true), at::kFloat, options.device), /*stages=*/2);
  prev_derivative_ = Tensor();
  sample_ = Tensor();
}

SchedulerOutput FlowMatchHeunDiscreteScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                                     const Tensor& sample, const StepOptions& options) {
  check_step_options(kClassName, options, {.churn = true, .s_noise = true});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const bool first_order = !prev_derivative_.defined();
  const float sigma = run_.sigma(first_order ? i : i - 1);
  const float sigma_next = run_.sigma(first_order ? i + 1 : i);
  const float sigma_hat = churned_sigma(options, sigma, run_.num_sigmas() - 1);
  const Tensor x = churned_sample(sample, options, model_output, sigma, sigma_hat);

  Tensor prev_sample;
  if (first_order) {
    // Python computes x_0 first. Its rounding is repeated here.
    prev_derivative_ = plus_scaled(x, -sigma, model_output).sub_(x).div_(-sigma_hat);
    dt_ = sigma_next - sigma_hat;
    sample_ = x;
    prev_sample = plus_scaled(x, dt_, prev_derivative_);
  } else {
    Tensor slope = plus_scaled(x, -sigma_next, model_output).sub_(x).div_(-sigma_next);
    slope.add_(prev_derivative_).mul_(0.5).mul_(dt_);
    prev_sample = slope.add_(sample_);
    prev_derivative_ = Tensor();
    sample_ = Tensor();
  }
  run_.advance();
  return {.prev_sample = prev_sample.to(model_output.scalar_type())};
}

}  // namespace diffusers
