#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/edm_dpmsolver_multistep_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/dpm_solver_math.h"
#include "schedulers/edm_math.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(EDMDPMSolverMultistepSchedulerConfig& config, ConfigVisitor& visit) {
  visit("sigma_min", config.sigma_min);
  visit("sigma_max", config.sigma_max);
  visit("sigma_data", config.sigma_data);
  visit("sigma_schedule", config.sigma_schedule);
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("prediction_type", config.prediction_type);
  visit("rho", config.rho);
  visit("solver_order", config.solver_order);
  visit("thresholding", config.thresholding);
  visit("dynamic_thresholding_ratio", config.dynamic_thresholding_ratio);
  visit("sample_max_value", config.sample_max_value);
  visit("algorithm_type", config.algorithm_type);
  visit("solver_type", config.solver_type);
  visit("lower_order_final", config.lower_order_final);
  visit("euler_at_final", config.euler_at_final);
  visit("final_sigmas_type", config.final_sigmas_type);
}

template class ConfiguredScheduler<EDMDPMSolverMultistepScheduler, EDMDPMSolverMultistepSchedulerConfig>;

EDMDPMSolverMultistepScheduler::EDMDPMSolverMultistepScheduler(EDMDPMSolverMultistepSchedulerConfig config)
    : SigmaScheduler(std::move(config)) {
  check_edm_config(kClassName, config_);
  require<ConfigError>(config_.solver_order >= 1 && config_.solver_order <= 3,
                       "{}: solver_order is {}, expected 1 to 3", kClassName, config_.solver_order);
  if (config_.thresholding)
    check_thresholding(kClassName, config_.dynamic_thresholding_ratio, config_.sample_max_value);
  if (config_.algorithm_type == AlgorithmType::kDeis)
    config_.algorithm_type = AlgorithmType::kDpmsolverPlusPlus;
  if (config_.solver_type != SolverType::kHeun) config_.solver_type = SolverType::kMidpoint;
  require<ConfigError>(predicts_data(config_.algorithm_type),
                       "{}: algorithm_type is \"{}\", expected dpmsolver++ or sde-dpmsolver++", kClassName,
                       config_.algorithm_type.name());
  run_ =
      edm_run(edm_sigmas(config_, at::linspace(0, 1, config_.num_train_timesteps, at::kFloat)), 0, at::kCPU);
}

double EDMDPMSolverMultistepScheduler::init_noise_sigma() const {
  return std::sqrt(config_.sigma_max * config_.sigma_max + 1);
}

Tensor EDMDPMSolverMultistepScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                                 const Tensor& timesteps) const {
  require_noisable(original_samples, noise);
  return (noise * run_.per_sample_sigmas(timesteps, original_samples, {}, kClassName)).add_(original_samples);
}

Tensor EDMDPMSolverMultistepScheduler::scale_model_input(const Tensor& sample, const Tensor& timestep) const {
  return sample * edm_input_scale(run_.sigma(run_.index(timestep, kClassName)), config_.sigma_data);
}

void EDMDPMSolverMultistepScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                                   const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps);
  const double last = config_.final_sigmas_type == FinalSigmasType::kZero ? 0.0 : config_.sigma_min;
  run_ = edm_run(edm_sigmas(config_, at::linspace(0, 1, n, at::kFloat)), last, options.device);
  outputs_.clear();
  timesteps_set_ = true;
}

SchedulerOutput EDMDPMSolverMultistepScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                                     const Tensor& sample, const StepOptions& options) {
  require(timesteps_set_, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const int64_t count = run_.timesteps().size();
  const Tensor x0 = edm_denoised(config_, model_output, sample, run_.sigma(i));
  const Tensor prediction = config_.thresholding ? threshold_sample(x0, config_.dynamic_thresholding_ratio,
                                                                    config_.sample_max_value)
                                                 : x0;
  outputs_.insert(outputs_.begin(), prediction);
  if (static_cast<int64_t>(outputs_.size()) > config_.solver_order) outputs_.pop_back();

  const bool few_steps = config_.lower_order_final && count < 15;
  int64_t order = static_cast<int64_t>(outputs_.size());
  if (i == count - 1 &&
      (config_.euler_at_final || few_steps || config_.final_sigmas_type == FinalSigmasType::kZero))
    order = 1;
  if (i == count - 2 && few_steps) order = std::min<int64_t>(order, 2);

  std::vector<NoiseLevel> levels;  // x = x_0 + sigma eps
  for (int64_t k = 0; k <= order; ++k) levels.push_back({1.0f, run_.sigma(i + 1 - k)});
  const Tensor noise = is_stochastic(config_.algorithm_type) ? step_noise(options, prediction) : Tensor();
  const Tensor prev_sample = multistep_update(config_.algorithm_type, config_.solver_type, levels,
                                              {outputs_.begin(), outputs_.begin() + order}, sample, noise);
  run_.advance();
  return {.prev_sample = prev_sample};
}

}  // namespace diffusers
