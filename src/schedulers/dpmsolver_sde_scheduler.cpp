#include <algorithm>
#include <cmath>
#include <limits>

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/dpmsolver_sde_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/brownian_interval.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(DPMSolverSDESchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("prediction_type", config.prediction_type);
  visit("use_karras_sigmas", config.use_karras_sigmas);
  visit("use_exponential_sigmas", config.use_exponential_sigmas);
  visit("use_beta_sigmas", config.use_beta_sigmas);
  visit("noise_sampler_seed", config.noise_sampler_seed);
  visit("timestep_spacing", config.timestep_spacing);
  visit("steps_offset", config.steps_offset);
}

template class ConfiguredScheduler<DPMSolverSDEScheduler, DPMSolverSDESchedulerConfig>;

/// Increments of Brownian motion over sigma, scaled to unit variance.
class DPMSolverSDEScheduler::NoiseSampler {
 public:
  NoiseSampler(const Tensor& sample, float sigma_min, float sigma_max, const OneOrMany<int64_t>& seeds)
      : batched_(seeds.is_list()) {
    require<TensorError>(!batched_ || static_cast<int64_t>(seeds.values().size()) == sample.size(0),
                         "{}: noise_sampler_seed holds {} seeds, expected one for each of the {} samples",
                         kClassName, seeds.values().size(), sample.size(0));
    for (const int64_t seed : seeds.values())
      intervals_.emplace_back(sigma_min, sigma_max, batched_ ? sample[0] : sample,
                              static_cast<uint64_t>(seed));
  }

  /// Returns standard normal noise for the step from one level to the next.
  Tensor operator()(float sigma, float sigma_next) const {
    std::vector<Tensor> increments;
    for (const auto& interval : intervals_) increments.push_back(-interval.increment(sigma_next, sigma));
    const Tensor sum = batched_ ? at::stack(increments) : increments.front();
    return sigma == sigma_next ? sum : sum.div_(torch_sqrt(sigma - sigma_next));  // empty interval: zeros
  }

 private:
  std::vector<BrownianInterval> intervals_;
  bool batched_;
};

DPMSolverSDEScheduler::DPMSolverSDEScheduler(DPMSolverSDESchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(finite_noise_schedule(beta_options(config_))) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kVPrediction});
  require<ConfigError>(!config_.noise_sampler_seed.is_list() || !config_.noise_sampler_seed.empty(),
                       "{}: noise_sampler_seed is an empty list, expected one seed for each sample",
                       kClassName);
  for (const int64_t seed : config_.noise_sampler_seed.values())
    require<ConfigError>(seed >= 0, "{}: noise_sampler_seed is {}, expected a number from 0", kClassName,
                         seed);
  DPMSolverSDEScheduler::set_timesteps(config_.num_train_timesteps);
}

double DPMSolverSDEScheduler::init_noise_sigma() const { return karras_init_noise_sigma(run_, config_); }

Tensor DPMSolverSDEScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                        const Tensor& timesteps) const {
  return karras_add_noise(run_, schedule_, original_samples, noise, timesteps, kClassName);
}

Tensor DPMSolverSDEScheduler::scale_model_input(const Tensor& sample, const Tensor& timestep) const {
  const int64_t i = run_.index(timestep, kClassName);
  return karras_model_input(sample, sample_.defined() ? middle_sigma_ : run_.sigma(i));
}

void DPMSolverSDEScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                          const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.num_train_timesteps = true});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps);
  const SigmaSpread spread = sigma_spread(kClassName, config_);
  const std::vector<double> training = training_sigmas(schedule_.alphas_cumprod());
  std::vector<double> timesteps = spaced_timesteps(
      config_.timestep_spacing, options.num_train_timesteps.value_or(config_.num_train_timesteps), n,
      config_.steps_offset, /*rounded=*/false);
  std::vector<double> sigmas = interpolate(timesteps, training);
  if (spread != SigmaSpread::kPlain) {
    const bool karras = spread == SigmaSpread::kKarras;  // its sigmas ignore the bounds in this class
    sigmas = spread_sigmas(spread, sigmas, n, karras ? std::nullopt : hidden_number("sigma_min"),
                           karras ? std::nullopt : hidden_number("sigma_max"));
    timesteps = sigmas_to_timesteps(sigmas, training);
  }
  std::vector<double> middles;
  for (std::size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double t = -std::log(sigmas[i]);
    middles.push_back(std::exp(-(t + (-std::log(sigmas[i + 1]) - t) * 0.5)));
  }
  middles = sigmas_to_timesteps(middles, training);
  std::vector<double> visited = doubled(timesteps, /*last_too=*/true);
  for (std::size_t i = 0; i < middles.size(); ++i) visited[2 * i + 1] = middles[i];
  sigmas.push_back(0);
  run_ = SigmaRun(doubled(sigmas, /*last_too=*/false),
                  TimestepSchedule(std::move(visited), at::kDouble, options.device), /*stages=*/2);
  noise_sampler_ = {};
  sample_ = Tensor();
}

SchedulerOutput DPMSolverSDEScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                            const Tensor& sample, const StepOptions& options) {
  check_step_options(kClassName, options, {.s_noise = true});
  check_step_tensors(kClassName, model_output, sample);
  run_.index(timestep, kClassName);  // throws for a wrong timestep before any state changes
  if (!noise_sampler_) {
    OneOrMany<int64_t> seed = config_.noise_sampler_seed;
    if (seed.empty()) {
      const at::Device device = options.generator ? options.generator->device() : at::Device(at::kCPU);
      seed = at::randint(0, std::numeric_limits<int64_t>::max(), {}, options.generator,
                         at::TensorOptions(at::kLong).device(device))
                 .item<int64_t>();
    }
    const float sigma_min = run_.sigma(std::max<int64_t>(run_.num_sigmas() - 2, 0));
    noise_sampler_ = std::make_shared<const NoiseSampler>(sample, sigma_min, run_.max_sigma(), seed);
  }

  const int64_t i = run_.enter(timestep, kClassName);
  // The Brownian motion is evaluated at the noise level, so the last bit of the level matters: at a level of
  // 100 it is eight grid points of the motion. Therefore LibTorch's logarithm and exponential are used. In
  // the half log-SNR t = -log(sigma), a step first goes to its midpoint, then from its start to its end.
  const bool first_order = !sample_.defined();
  const float sigma = run_.sigma(first_order ? i : i - 1);
  const float sigma_next = run_.sigma(first_order ? i + 1 : i);
  const float t = -torch_log(sigma);
  const float t_next = -torch_log(sigma_next);
  const float t_middle = t + (t_next - t) * 0.5f;
  const Tensor pred_original_sample = karras_data_prediction(config_.prediction_type, model_output, sample,
                                                             first_order ? sigma : torch_exp(-t_middle));
  Tensor prev_sample;
  if (sigma_next == 0) {
    prev_sample = euler_step(sample, sample, pred_original_sample, sigma, -sigma);
  } else {
    const float from = torch_exp(-t);
    const float to = torch_exp(-(first_order ? t_middle : t_next));
    const AncestralLevels levels = ancestral_levels(from, to);
    const float t_down = -torch_log(levels.down);
    prev_sample = weighted_sum(torch_exp(-t_down) / from, first_order ? sample : sample_,
                               -torch_expm1(t - t_down), pred_original_sample);
    const Tensor noise = (*noise_sampler_)(from, to);
    prev_sample =
        add_scaled(prev_sample, levels.up, options.s_noise == 1 ? noise : at::mul(noise, options.s_noise));
    sample_ = first_order ? sample : Tensor();
    middle_sigma_ = to;
  }
  run_.advance();
  return {.prev_sample = prev_sample, .pred_original_sample = pred_original_sample};
}

}  // namespace diffusers
