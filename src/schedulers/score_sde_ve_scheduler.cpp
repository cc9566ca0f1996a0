#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/score_sde_ve_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(ScoreSdeVeSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("snr", config.snr);
  visit("sigma_min", config.sigma_min);
  visit("sigma_max", config.sigma_max);
  visit("sampling_eps", config.sampling_eps);
  visit("correct_steps", config.correct_steps);
}

template class ConfiguredScheduler<ScoreSdeVeScheduler, ScoreSdeVeSchedulerConfig>;

ScoreSdeVeScheduler::ScoreSdeVeScheduler(ScoreSdeVeSchedulerConfig config)
    : ConfiguredScheduler(std::move(config)) {
  require<ConfigError>(config_.num_train_timesteps >= 1 && config_.num_train_timesteps <= 10'000'000,
                       "{}: num_train_timesteps is {}, expected 1 to 10000000", kClassName,
                       config_.num_train_timesteps);
  require<ConfigError>(config_.sampling_eps > 0 && config_.sampling_eps < 1,
                       "{}: sampling_eps is {}, expected more than 0 and less than 1", kClassName,
                       config_.sampling_eps);
  require<ConfigError>(config_.snr > 0 && config_.correct_steps >= 0,
                       "{}: snr is {} and correct_steps {}, expected a positive number and none below 0",
                       kClassName, config_.snr, config_.correct_steps);
  ScoreSdeVeScheduler::set_timesteps(config_.num_train_timesteps);
  set_sigmas(config_.num_train_timesteps);
}

PredictionType ScoreSdeVeScheduler::prediction_type() const {
  fail<ConfigError>("{} has no prediction_type: its model predicts the score", kClassName);
}

Tensor ScoreSdeVeScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                      const Tensor& timesteps) const {
  require_noisable(original_samples, noise);
  const Tensor indices = per_sample_timesteps(timesteps, original_samples, discrete_sigmas_.host().size(0));
  const Tensor levels = discrete_sigmas_.on(original_samples.device(), at::kFloat);
  return (noise * per_sample(levels, indices, original_samples.dim())).add_(original_samples);
}

void ScoreSdeVeScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                        const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  set_timesteps(checked_num_inference_steps(kClassName, num_inference_steps), config_.sampling_eps,
                options.device);
}

void ScoreSdeVeScheduler::set_timesteps(int64_t num_inference_steps, double sampling_eps, at::Device device) {
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps);
  require<ConfigError>(sampling_eps > 0 && sampling_eps < 1,
                       "{}: sampling_eps is {}, expected more than 0 and less than 1", kClassName,
                       sampling_eps);
  const Tensor values = at::linspace(1, sampling_eps, n, at::kFloat).to(at::kDouble);
  timesteps_ = TimestepSchedule({values.const_data_ptr<double>(), values.const_data_ptr<double>() + n},
                                at::kFloat, device);
}

void ScoreSdeVeScheduler::set_sigmas(int64_t num_inference_steps, std::optional<double> sigma_min,
                                     std::optional<double> sigma_max, std::optional<double> sampling_eps) {
  checked_num_inference_steps(kClassName, num_inference_steps);
  const double low = sigma_min.value_or(config_.sigma_min);
  const double high = sigma_max.value_or(config_.sigma_max);
  require<ConfigError>(low > 0 && low < high && std::isfinite(high),
                       "{}: sigma_min is {} and sigma_max {}, expected 0 < sigma_min < sigma_max", kClassName,
                       low, high);
  const double eps = sampling_eps.value_or(config_.sampling_eps);
  require<ConfigError>(eps > 0 && eps < 1, "{}: sampling_eps is {}, expected more than 0 and less than 1",
                       kClassName, eps);
  discrete_sigmas_ =
      DeviceTable(at::linspace(std::log(low), std::log(high), num_inference_steps, at::kFloat).exp());
  sigmas_ = low * at::pow(high / low, timesteps_.tensor().to(at::kCPU));
}

SchedulerOutput ScoreSdeVeScheduler::step(const Tensor&, const Tensor&, const Tensor&, const StepOptions&) {
  fail("{} has no step; call step_correct and step_pred", kClassName);
}

ScoreSdeVeScheduler::Output ScoreSdeVeScheduler::step_pred(const Tensor& model_output, const Tensor& timestep,
                                                           const Tensor& sample, const StepOptions& options) {
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const auto t = static_cast<float>(timesteps_.value_of(timestep, kClassName));
  const auto i = static_cast<int64_t>(t * static_cast<float>(timesteps_.size() - 1));
  require<TensorError>(i >= 0 && i < discrete_sigmas_.host().size(0),
                       "{}: step_pred: timestep {} lies beyond the {} sigmas; call set_sigmas too",
                       kClassName, t, discrete_sigmas_.host().size(0));
  const float sigma = discrete_sigmas_.host().const_data_ptr<float>()[i];
  const float adjacent = i == 0 ? 0.0f : discrete_sigmas_.host().const_data_ptr<float>()[i - 1];
  const float diffusion = torch_sqrt(sigma * sigma - adjacent * adjacent);
  const Tensor mean = plus_scaled(sample, diffusion * diffusion, model_output);
  return {plus_scaled(mean, diffusion, step_noise(options, sample)), mean};
}

ScoreSdeVeScheduler::Output ScoreSdeVeScheduler::step_correct(const Tensor& model_output,
                                                              const Tensor& sample,
                                                              const StepOptions& options) {
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  // As in Python, the noise is drawn in float32 on the CPU.
  const Tensor noise =
      randn_tensor(sample.sizes(), options.generator).to(sample.device(), /*non_blocking=*/true);
  const auto mean_norm = [](const Tensor& x) { return x.reshape({x.size(0), -1}).norm(2, -1).mean(); };
  const Tensor step_size = (config_.snr * mean_norm(noise) / mean_norm(model_output)).pow(2) * 2;
  const Tensor mean = add_scaled(step_size * model_output, 1, sample);
  return {add_scaled((step_size * 2).sqrt() * noise, 1, mean), mean};
}

}  // namespace diffusers
