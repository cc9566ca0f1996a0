#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/dpmsolver_multistep_inverse_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/dpm_solver_math.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(DPMSolverMultistepInverseSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("solver_order", config.solver_order);
  visit("prediction_type", config.prediction_type);
  visit("thresholding", config.thresholding);
  visit("dynamic_thresholding_ratio", config.dynamic_thresholding_ratio);
  visit("sample_max_value", config.sample_max_value);
  visit("algorithm_type", config.algorithm_type);
  visit("solver_type", config.solver_type);
  visit("lower_order_final", config.lower_order_final);
  visit("euler_at_final", config.euler_at_final);
  visit("use_karras_sigmas", config.use_karras_sigmas);
  visit("use_exponential_sigmas", config.use_exponential_sigmas);
  visit("use_beta_sigmas", config.use_beta_sigmas);
  visit("use_flow_sigmas", config.use_flow_sigmas);
  visit("flow_shift", config.flow_shift);
  visit("lambda_min_clipped", config.lambda_min_clipped);
  visit("variance_type", config.variance_type);
  visit("timestep_spacing", config.timestep_spacing);
  visit("steps_offset", config.steps_offset);
}

template class ConfiguredScheduler<DPMSolverMultistepInverseScheduler,
                                   DPMSolverMultistepInverseSchedulerConfig>;

DPMSolverMultistepInverseScheduler::DPMSolverMultistepInverseScheduler(
    DPMSolverMultistepInverseSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(finite_noise_schedule(beta_options(config_))) {
  check_dpm_solver_config(kClassName, config_, 3);
  require<ConfigError>(!is_stochastic(config_.algorithm_type),
                       "{}: algorithm_type is \"{}\", whose noise has no variance on the way to more noise; "
                       "expected dpmsolver or dpmsolver++",
                       kClassName, config_.algorithm_type.name());
  sigma_spread(kClassName, config_);
  clipped_timestep_count(kClassName, schedule_, config_.num_train_timesteps, config_.lambda_min_clipped);
  // Ascending, in the direction of the run.
  std::vector<double> timesteps = training_timesteps(config_.num_train_timesteps);
  std::reverse(timesteps.begin(), timesteps.end());
  run_ = SigmaRun(training_sigmas(schedule_.alphas_cumprod()),
                  TimestepSchedule(std::move(timesteps), at::kFloat));
}

Tensor DPMSolverMultistepInverseScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                                     const Tensor& timesteps) const {
  return solver_add_noise(run_, schedule_, config_.use_flow_sigmas, original_samples, noise, timesteps,
                          kClassName);
}

void DPMSolverMultistepInverseScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                                       const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps, config_.num_train_timesteps);
  const SigmaSpread spread = sigma_spread(kClassName, config_);
  const int64_t last =
      clipped_timestep_count(kClassName, schedule_, config_.num_train_timesteps, config_.lambda_min_clipped);
  std::vector<double> plain;
  if (config_.timestep_spacing == TimestepSpacing::kTrailing) {
    plain = solver_timesteps(config_.timestep_spacing, config_.num_train_timesteps, last, n, 0);
    std::reverse(plain.begin(), plain.end());
  } else if (config_.timestep_spacing == TimestepSpacing::kLeading) {
    const int64_t stride = last / (n + 1);
    warn_where_leading_stands_still(stride, n, config_.steps_offset);
    for (int64_t k = 0; k < n; ++k) plain.push_back(static_cast<double>(k * stride + config_.steps_offset));
  } else {
    plain = linspace(0, static_cast<double>(last - 1), n + 1);
    plain.pop_back();
    for (double& t : plain) t = std::nearbyint(t);
  }
  const std::vector<double> training = training_sigmas(schedule_.alphas_cumprod());
  auto [timesteps, sigmas] =
      solver_schedule(config_, spread, plain, n, training, training, hidden_number("sigma_min"),
                      hidden_number("sigma_max"), config_.flow_shift);
  const bool spread_or_flow = spread != SigmaSpread::kPlain || config_.use_flow_sigmas;
  sigmas.push_back(spread_or_flow ? sigmas.back() : training[static_cast<std::size_t>(last - 1)]);
  run_ = SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), at::kLong, options.device));
  outputs_.clear();
  timesteps_set_ = true;
}

SchedulerOutput DPMSolverMultistepInverseScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                                         const Tensor& sample, const StepOptions& options) {
  require(timesteps_set_, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample, has_learned_variance(config_));
  const int64_t i = run_.enter(timestep, kClassName);
  const int64_t count = run_.timesteps().size();
  const Tensor prediction = dpm_solver_prediction(config_, model_output, sample, run_.sigma(i));
  outputs_.insert(outputs_.begin(), prediction);
  if (static_cast<int64_t>(outputs_.size()) > config_.solver_order) outputs_.pop_back();

  const bool few_steps = config_.lower_order_final && count < 15;
  int64_t order = static_cast<int64_t>(outputs_.size());
  if (i == count - 1 && (config_.euler_at_final || few_steps)) order = 1;
  if (i == count - 2 && few_steps) order = std::min<int64_t>(order, 2);

  std::vector<NoiseLevel> levels;
  for (int64_t k = 0; k <= order; ++k)
    levels.push_back(noise_level(run_.sigma(i + 1 - k), config_.use_flow_sigmas));
  const Tensor prev_sample = multistep_update(config_.algorithm_type, config_.solver_type, levels,
                                              {outputs_.begin(), outputs_.begin() + order}, sample, {});
  run_.advance();
  return {.prev_sample = prev_sample};
}

}  // namespace diffusers
