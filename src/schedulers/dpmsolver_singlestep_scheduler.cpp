#include <algorithm>
#include <cmath>

#include <diffusers/core/logging.h>
#include <diffusers/schedulers/dpmsolver_singlestep_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/dpm_solver_math.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(DPMSolverSinglestepSchedulerConfig& config, ConfigVisitor& visit) {
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
  visit("use_karras_sigmas", config.use_karras_sigmas);
  visit("use_exponential_sigmas", config.use_exponential_sigmas);
  visit("use_beta_sigmas", config.use_beta_sigmas);
  visit("use_flow_sigmas", config.use_flow_sigmas);
  visit("flow_shift", config.flow_shift);
  visit("final_sigmas_type", config.final_sigmas_type);
  visit("lambda_min_clipped", config.lambda_min_clipped);
  visit("variance_type", config.variance_type);
  visit("use_dynamic_shifting", config.use_dynamic_shifting);
  visit("time_shift_type", config.time_shift_type);
}

template class ConfiguredScheduler<DPMSolverSinglestepScheduler, DPMSolverSinglestepSchedulerConfig>;

DPMSolverSinglestepScheduler::DPMSolverSinglestepScheduler(DPMSolverSinglestepSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(finite_noise_schedule(beta_options(config_))) {
  check_dpm_solver_config(kClassName, config_, 3);
  require<ConfigError>(
      config_.algorithm_type != AlgorithmType::kSdeDpmsolver,
      "{}: algorithm_type is \"sde-dpmsolver\", expected dpmsolver, dpmsolver++ or sde-dpmsolver++",
      kClassName);
  sigma_spread(kClassName, config_);
  clipped_timestep_count(kClassName, schedule_, config_.num_train_timesteps, config_.lambda_min_clipped);
  run_ = training_run(schedule_, at::kFloat);
}

Tensor DPMSolverSinglestepScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                               const Tensor& timesteps) const {
  return solver_add_noise(run_, schedule_, config_.use_flow_sigmas, original_samples, noise, timesteps,
                          kClassName);
}

void DPMSolverSinglestepScheduler::set_order_list(int64_t num_inference_steps) {
  const int64_t order = config_.solver_order;
  const int64_t steps = num_inference_steps;
  order_list_.clear();
  for (int64_t i = 0; i < steps; ++i) order_list_.push_back(i % order + 1);
  if (config_.lower_order_final) {
    // Lu et al. 2022, section 3.4: the last steps have lower orders, so that the run has exactly the given
    // number of steps.
    if (order == 3 && steps % 3 == 0) order_list_.back() = 1;
    if (order == 2 && steps % 2 == 0) order_list_.back() = 1;
  }
  if (config_.final_sigmas_type == FinalSigmasType::kZero) order_list_.back() = 1;
}

void DPMSolverSinglestepScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                                 const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.mu = true, .timesteps = true});
  const bool custom = !options.timesteps.empty();
  require<ConfigError>(custom != num_inference_steps.has_value(),
                       "{}: set_timesteps takes exactly one of num_inference_steps and timesteps",
                       kClassName);
  const SigmaSpread spread = sigma_spread(kClassName, config_);
  require<ConfigError>(!custom || (spread == SigmaSpread::kPlain),
                       "{}: timesteps cannot be given with karras, exponential or beta sigmas", kClassName);
  if (custom) check_custom_timesteps(kClassName, options.timesteps, config_.num_train_timesteps);
  const int64_t n =
      custom ? static_cast<int64_t>(options.timesteps.size())
             : checked_num_inference_steps(kClassName, num_inference_steps, config_.num_train_timesteps);
  const int64_t last =
      clipped_timestep_count(kClassName, schedule_, config_.num_train_timesteps, config_.lambda_min_clipped);
  const std::vector<double> training = training_sigmas(schedule_.alphas_cumprod());
  auto [timesteps, sigmas] = solver_schedule(
      config_, spread,
      custom ? options.timesteps
             : solver_timesteps(TimestepSpacing::kLinspace, config_.num_train_timesteps, last, n, 0),
      n, training, {training.rbegin(), training.rend()}, hidden_number("sigma_min"),
      hidden_number("sigma_max"), run_flow_shift(kClassName, config_, options.mu));
  sigmas.push_back(final_sigma(config_, sigmas, training.front()));
  run_ = SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), at::kLong, options.device));
  if (!config_.lower_order_final &&
      (n % config_.solver_order != 0 || config_.final_sigmas_type == FinalSigmasType::kZero)) {
    warn_once(
        "DPMSolverSinglestepScheduler: lower_order_final is switched on, since the steps are no multiple of "
        "solver_order or final_sigmas_type is \"zero\"");
    config_.lower_order_final = true;
  }
  set_order_list(n);
  outputs_.clear();
  sample_ = Tensor();
  timesteps_set_ = true;
}

SchedulerOutput DPMSolverSinglestepScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                                   const Tensor& sample, const StepOptions& options) {
  require(timesteps_set_, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample, has_learned_variance(config_));
  const int64_t i = run_.enter(timestep, kClassName);
  const Tensor prediction = dpm_solver_prediction(config_, model_output, sample, run_.sigma(i));
  outputs_.insert(outputs_.begin(), prediction);
  if (static_cast<int64_t>(outputs_.size()) > config_.solver_order) outputs_.pop_back();
  const Tensor noise = is_stochastic(config_.algorithm_type) ? step_noise(options, prediction) : Tensor();

  // A run that starts in the middle has no earlier predictions.
  const int64_t order =
      std::min(order_list_.at(static_cast<std::size_t>(i)), static_cast<int64_t>(outputs_.size()));
  if (order == 1) sample_ = sample;
  std::vector<NoiseLevel> levels;
  for (int64_t k = 0; k <= order; ++k)
    levels.push_back(noise_level(run_.sigma(i + 1 - k), config_.use_flow_sigmas));
  const Tensor prev_sample = singlestep_update(config_.algorithm_type, config_.solver_type, levels,
                                               {outputs_.begin(), outputs_.begin() + order}, sample_, noise);
  run_.advance();
  return {.prev_sample = prev_sample};
}

}  // namespace diffusers
