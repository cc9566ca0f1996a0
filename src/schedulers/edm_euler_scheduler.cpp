#include <cmath>

#include <diffusers/schedulers/edm_euler_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/edm_math.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(EDMEulerSchedulerConfig& config, ConfigVisitor& visit) {
  visit("sigma_min", config.sigma_min);
  visit("sigma_max", config.sigma_max);
  visit("sigma_data", config.sigma_data);
  visit("sigma_schedule", config.sigma_schedule);
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("prediction_type", config.prediction_type);
  visit("rho", config.rho);
  visit("final_sigmas_type", config.final_sigmas_type);
}

template class ConfiguredScheduler<EDMEulerScheduler, EDMEulerSchedulerConfig>;

EDMEulerScheduler::EDMEulerScheduler(EDMEulerSchedulerConfig config) : SigmaScheduler(std::move(config)) {
  check_edm_config(kClassName, config_);
  const int64_t count = config_.num_train_timesteps;
  run_ = run_at(at::arange(count + 1, at::kDouble) / static_cast<double>(count), at::kCPU);
}

SigmaRun EDMEulerScheduler::run_at(const Tensor& ramp, at::Device device) const {
  const Tensor sigmas = edm_sigmas(config_, ramp);
  const double last = config_.final_sigmas_type == FinalSigmasType::kZero
                          ? 0.0
                          : static_cast<double>(sigmas[-1].const_data_ptr<float>()[0]);
  return edm_run(sigmas, last, device);
}

double EDMEulerScheduler::init_noise_sigma() const {
  return std::sqrt(config_.sigma_max * config_.sigma_max + 1);
}

Tensor EDMEulerScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                    const Tensor& timesteps) const {
  require_noisable(original_samples, noise);
  return (noise * run_.per_sample_sigmas(timesteps, original_samples, {}, kClassName)).add_(original_samples);
}

Tensor EDMEulerScheduler::scale_model_input(const Tensor& sample, const Tensor& timestep) const {
  return sample * edm_input_scale(run_.sigma(run_.index(timestep, kClassName)), config_.sigma_data);
}

void EDMEulerScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                      const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.sigmas = true});
  // As in Python, `sigmas` is the ramp from 0 to 1 that is mapped to noise levels.
  const Tensor ramp =
      options.sigmas.empty()
          ? at::linspace(0, 1, checked_num_inference_steps(kClassName, num_inference_steps), at::kDouble)
          : at::tensor(options.sigmas, at::kDouble);
  for (const double each : options.sigmas)
    require<ConfigError>(each >= 0 && each <= 1, "{}: sigmas holds {}, expected positions from 0 to 1",
                         kClassName, each);
  run_ = run_at(ramp, options.device);
}

SchedulerOutput EDMEulerScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                        const Tensor& sample, const StepOptions& options) {
  return step(model_output, timestep, sample, Tensor(), options);
}

SchedulerOutput EDMEulerScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                        const Tensor& sample, const Tensor& pred_original_sample,
                                        const StepOptions& options) {
  check_step_options(kClassName, options, {.churn = true, .s_noise = true});
  check_step_tensors(kClassName, model_output, sample);
  require<TensorError>(!pred_original_sample.defined() || (pred_original_sample.sizes() == sample.sizes() &&
                                                           pred_original_sample.device() == sample.device()),
                       "{}: step: pred_original_sample is {}, expected {} like the sample", kClassName,
                       describe(pred_original_sample), describe(sample));
  const int64_t i = run_.enter(timestep, kClassName);
  const float sigma = run_.sigma(i);
  const float sigma_hat = churned_sigma(options, sigma, run_.num_sigmas() - 1);
  const Tensor x = churned_sample(sample, options, model_output, sigma, sigma_hat);
  const Tensor x0 = pred_original_sample.defined() ? pred_original_sample
                                                   : edm_denoised(config_, model_output, x, sigma_hat);
  const Tensor prev_sample = euler_step(x, x, x0, sigma_hat, run_.sigma(i + 1) - sigma_hat);
  run_.advance();
  return {.prev_sample = prev_sample.to(model_output.scalar_type()), .pred_original_sample = x0};
}

}  // namespace diffusers
