#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/dpm_solver_math.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(DPMSolverMultistepSchedulerConfig& config, ConfigVisitor& visit) {
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
  visit("use_lu_lambdas", config.use_lu_lambdas);
  visit("use_flow_sigmas", config.use_flow_sigmas);
  visit("flow_shift", config.flow_shift);
  visit("final_sigmas_type", config.final_sigmas_type);
  visit("lambda_min_clipped", config.lambda_min_clipped);
  visit("variance_type", config.variance_type);
  visit("timestep_spacing", config.timestep_spacing);
  visit("steps_offset", config.steps_offset);
  visit("rescale_betas_zero_snr", config.rescale_betas_zero_snr);
  visit("use_dynamic_shifting", config.use_dynamic_shifting);
  visit("time_shift_type", config.time_shift_type);
}

template class ConfiguredScheduler<DPMSolverMultistepScheduler, DPMSolverMultistepSchedulerConfig>;

DPMSolverMultistepScheduler::DPMSolverMultistepScheduler(DPMSolverMultistepSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(finite_noise_schedule(beta_options(config_))) {
  check_dpm_solver_config(kClassName, config_, 3);
  sigma_spread(kClassName, config_);
  clipped_timestep_count(kClassName, schedule_, config_.num_train_timesteps, config_.lambda_min_clipped);
  run_ = training_run(schedule_, at::kFloat);
}

Tensor DPMSolverMultistepScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                              const Tensor& timesteps) const {
  return solver_add_noise(run_, schedule_, config_.use_flow_sigmas, original_samples, noise, timesteps,
                          kClassName);
}

void DPMSolverMultistepScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                                const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.mu = true, .timesteps = true});
  const bool custom = !options.timesteps.empty();
  require<ConfigError>(custom != num_inference_steps.has_value(),
                       "{}: set_timesteps takes exactly one of num_inference_steps and timesteps",
                       kClassName);
  const SigmaSpread spread = sigma_spread(kClassName, config_);
  require<ConfigError>(!custom || (spread == SigmaSpread::kPlain && !config_.use_lu_lambdas),
                       "{}: timesteps cannot be given with karras, exponential, beta or lu sigmas",
                       kClassName);
  if (custom) check_custom_timesteps(kClassName, options.timesteps, config_.num_train_timesteps);
  const int64_t n =
      custom ? static_cast<int64_t>(options.timesteps.size())
             : checked_num_inference_steps(kClassName, num_inference_steps, config_.num_train_timesteps);
  const int64_t last_timestep =
      clipped_timestep_count(kClassName, schedule_, config_.num_train_timesteps, config_.lambda_min_clipped);
  const std::vector<double> training = training_sigmas(schedule_.alphas_cumprod());
  const std::vector<double> range(training.rbegin(), training.rend());
  const bool rounded = config_.beta_schedule != BetaSchedule::kSquaredcosCapV2;
  SolverSchedule schedule;
  if (spread == SigmaSpread::kPlain && config_.use_lu_lambdas) {
    // Evenly spaced in lambda (Lu et al. 2022, section 4).
    const auto log_sigma = [](double sigma) -> double { return numpy_log(static_cast<float>(sigma)); };
    for (const double level : linspace(log_sigma(range.front()), log_sigma(range.back()), n))
      schedule.sigmas.push_back(std::exp(level));
    schedule.timesteps = sigmas_to_timesteps(schedule.sigmas, training);
    if (rounded)
      for (double& t : schedule.timesteps) t = std::nearbyint(t);
  } else {
    schedule =
        solver_schedule(config_, spread,
                        custom ? options.timesteps
                               : solver_timesteps(config_.timestep_spacing, config_.num_train_timesteps,
                                                  last_timestep, n, config_.steps_offset),
                        n, training, range, hidden_number("sigma_min"), hidden_number("sigma_max"),
                        run_flow_shift(kClassName, config_, options.mu), rounded);
  }
  schedule.sigmas.push_back(final_sigma(config_, schedule.sigmas, training.front()));
  run_ =
      SigmaRun(schedule.sigmas, TimestepSchedule(std::move(schedule.timesteps), at::kLong, options.device));
  outputs_.clear();
  timesteps_set_ = true;
}

SchedulerOutput DPMSolverMultistepScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                                  const Tensor& sample, const StepOptions& options) {
  require(timesteps_set_, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {.variance_noise = is_stochastic(config_.algorithm_type)});
  check_step_tensors(kClassName, model_output, sample, has_learned_variance(config_));
  const int64_t i = run_.enter(timestep, kClassName);
  const int64_t count = run_.timesteps().size();
  const Tensor prediction = dpm_solver_prediction(config_, model_output, sample, run_.sigma(i));
  outputs_.insert(outputs_.begin(), prediction);
  if (static_cast<int64_t>(outputs_.size()) > config_.solver_order) outputs_.pop_back();

  // The last steps of a short run have a lower order, for stability.
  const bool few_steps = config_.lower_order_final && count < 15;
  int64_t order = static_cast<int64_t>(outputs_.size());
  if (i == count - 1 &&
      (config_.euler_at_final || few_steps || config_.final_sigmas_type == FinalSigmasType::kZero))
    order = 1;
  if (i == count - 2 && few_steps) order = std::min<int64_t>(order, 2);

  std::vector<NoiseLevel> levels;
  for (int64_t k = 0; k <= order; ++k)
    levels.push_back(noise_level(run_.sigma(i + 1 - k), config_.use_flow_sigmas));
  const Tensor noise =
      is_stochastic(config_.algorithm_type) ? step_noise(options, prediction, at::kFloat) : Tensor();
  const Tensor prev_sample =
      multistep_update(config_.algorithm_type, config_.solver_type, levels,
                       {outputs_.begin(), outputs_.begin() + order}, sample.to(at::kFloat), noise);
  run_.advance();
  return {.prev_sample = prev_sample.to(prediction.scalar_type())};
}

}  // namespace diffusers
