#include <algorithm>
#include <cmath>

#include <diffusers/core/logging.h>
#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(FlowMatchEulerDiscreteSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("shift", config.shift);
  visit("use_dynamic_shifting", config.use_dynamic_shifting);
  visit("base_shift", config.base_shift);
  visit("max_shift", config.max_shift);
  visit("base_image_seq_len", config.base_image_seq_len);
  visit("max_image_seq_len", config.max_image_seq_len);
  visit("invert_sigmas", config.invert_sigmas);
  visit("shift_terminal", config.shift_terminal);
  visit("use_karras_sigmas", config.use_karras_sigmas);
  visit("use_exponential_sigmas", config.use_exponential_sigmas);
  visit("use_beta_sigmas", config.use_beta_sigmas);
  visit("time_shift_type", config.time_shift_type);
  visit("stochastic_sampling", config.stochastic_sampling);
}

template class ConfiguredScheduler<FlowMatchEulerDiscreteScheduler, FlowMatchEulerDiscreteSchedulerConfig>;

FlowMatchEulerDiscreteScheduler::FlowMatchEulerDiscreteScheduler(FlowMatchEulerDiscreteSchedulerConfig config)
    : SigmaScheduler(std::move(config)), shift_(config_.shift) {
  sigma_spread(kClassName, config_);
  check_flow_config(kClassName, config_.num_train_timesteps, config_.shift);
  run_ = flow_training_run(config_.num_train_timesteps, config_.use_dynamic_shifting ? 1.0 : config_.shift);
  sigma_max_ = run_.sigma(0);
  sigma_min_ = run_.sigma(run_.num_sigmas() - 1);
}

Tensor FlowMatchEulerDiscreteScheduler::scale_noise(const Tensor& sample, const Tensor& timestep,
                                                    const Tensor& noise) const {
  require_noisable(sample, noise);
  const Tensor sigma = run_.per_sample_sigmas(timestep, sample, {}, kClassName);
  return sigma * noise + (1.0 - sigma) * sample;
}

void FlowMatchEulerDiscreteScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                                    const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.sigmas = true, .mu = true, .timesteps = true});
  require<ConfigError>(!config_.use_dynamic_shifting || options.mu,
                       "{}: use_dynamic_shifting is true, so set_timesteps needs mu", kClassName);
  const bool custom_sigmas = !options.sigmas.empty();
  const bool custom_timesteps = !options.timesteps.empty();
  const int64_t n = num_inference_steps ? *num_inference_steps
                    : custom_sigmas     ? static_cast<int64_t>(options.sigmas.size())
                    : custom_timesteps  ? static_cast<int64_t>(options.timesteps.size())
                                        : checked_num_inference_steps(kClassName, std::nullopt);
  checked_num_inference_steps(kClassName, n);
  for (const auto* list : {&options.sigmas, &options.timesteps})
    require<ConfigError>(list->empty() || static_cast<int64_t>(list->size()) == n,
                         "{}: sigmas and timesteps must hold num_inference_steps = {} values, found {}",
                         kClassName, n, list->size());
  const auto total = static_cast<double>(config_.num_train_timesteps);
  std::vector<double> sigmas = options.sigmas;
  if (!custom_sigmas) {
    if (custom_timesteps)
      warn_once(
          "FlowMatchEulerDiscreteScheduler: the given timesteps are used as they are, but the sigmas derived "
          "from "
          "them are shifted; give sigmas too where that is not meant");
    sigmas = custom_timesteps ? options.timesteps : linspace(sigma_max_ * total, sigma_min_ * total, n);
    for (double& sigma : sigmas) sigma /= total;
  }
  for (double& sigma : sigmas)
    sigma = config_.use_dynamic_shifting
                ? dynamically_shifted_sigma(sigma, *options.mu, config_.time_shift_type)
                : shifted_sigma(sigma, shift_);
  if (config_.shift_terminal.value_or(0) != 0) stretch_to_terminal(sigmas, *config_.shift_terminal);
  sigmas = spread_sigmas(sigma_spread(kClassName, config_), sigmas, n, hidden_number("sigma_min"),
                         hidden_number("sigma_max"));
  std::vector<double> timesteps = options.timesteps;
  if (config_.invert_sigmas)
    for (double& sigma : sigmas) sigma = 1.0f - static_cast<float>(sigma);
  if (!custom_timesteps || config_.invert_sigmas) {
    timesteps.clear();
    for (const double sigma : sigmas)
      timesteps.push_back(static_cast<float>(sigma) * static_cast<float>(total));
  }
  sigmas.push_back(config_.invert_sigmas ? 1.0 : 0.0);
  run_ = SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), at::kFloat, options.device));
}

/// Returns x + (sigma' - sigma) v, or x_0 with the noise of the next level (stochastic_sampling).
Tensor FlowMatchEulerDiscreteScheduler::stochastic_or_euler(const Tensor& model_output, const Tensor& sample,
                                                            const Tensor& sigma, const Tensor& sigma_next,
                                                            const Tensor& dt,
                                                            const StepOptions& options) const {
  if (!config_.stochastic_sampling) return add_scaled(dt * model_output, 1, sample);
  const Tensor x0 = add_scaled(sigma * model_output, -1, sample).neg_();
  return add_scaled(sigma_next * step_noise(options, sample), 1, x0.mul_(1.0 - sigma_next));
}

SchedulerOutput FlowMatchEulerDiscreteScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                                      const Tensor& sample, const StepOptions& options) {
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const float sigma = run_.sigma(i);
  const float sigma_next = run_.sigma(i + 1);
  const Tensor prev_sample = stochastic_or_euler(
      model_output, sample.to(at::kFloat), at::scalar_tensor(sigma, at::kFloat),
      at::scalar_tensor(sigma_next, at::kFloat), at::scalar_tensor(sigma_next - sigma, at::kFloat), options);
  run_.advance();
  return {.prev_sample = prev_sample.to(model_output.scalar_type())};
}

SchedulerOutput FlowMatchEulerDiscreteScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                                      const Tensor& sample, const Tensor& per_token_timesteps,
                                                      const StepOptions& options) {
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  require<TensorError>(per_token_timesteps.defined() && per_token_timesteps.dim() == 2 && sample.dim() == 3 &&
                           per_token_timesteps.sizes() == sample.sizes().slice(0, 2) &&
                           per_token_timesteps.device() == sample.device(),
                       "{}: step: per_token_timesteps are {}, expected [B, N] for a sample of {}", kClassName,
                       describe(per_token_timesteps), describe(sample));
  run_.enter(timestep, kClassName);
  // Each token goes to the next lower level of the run.
  const Tensor sigma =
      (per_token_timesteps / static_cast<double>(config_.num_train_timesteps)).to(at::kFloat);
  const Tensor levels = run_.sigmas_on(sample.device()).view({-1, 1, 1});
  const Tensor sigma_next = (levels * (levels < sigma.unsqueeze(0) - 1e-6)).amax(0);
  // Python's step size has the opposite sign here.
  const Tensor prev_sample =
      stochastic_or_euler(model_output, sample.to(at::kFloat), sigma.unsqueeze(-1), sigma_next.unsqueeze(-1),
                          (sigma - sigma_next).unsqueeze(-1), options);
  run_.advance();
  return {.prev_sample = prev_sample};
}

}  // namespace diffusers
