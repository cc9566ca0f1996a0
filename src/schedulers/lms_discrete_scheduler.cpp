#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/lms_discrete_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(LMSDiscreteSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("use_karras_sigmas", config.use_karras_sigmas);
  visit("use_exponential_sigmas", config.use_exponential_sigmas);
  visit("use_beta_sigmas", config.use_beta_sigmas);
  visit("prediction_type", config.prediction_type);
  visit("timestep_spacing", config.timestep_spacing);
  visit("steps_offset", config.steps_offset);
}

template class ConfiguredScheduler<LMSDiscreteScheduler, LMSDiscreteSchedulerConfig>;

namespace {
constexpr int64_t kLmsOrder = 4;
}  // namespace

LMSDiscreteScheduler::LMSDiscreteScheduler(LMSDiscreteSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(finite_noise_schedule(beta_options(config_))) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction});
  sigma_spread(kClassName, config_);
  LMSDiscreteScheduler::set_timesteps(config_.num_train_timesteps);
}

double LMSDiscreteScheduler::init_noise_sigma() const { return karras_init_noise_sigma(run_, config_); }

Tensor LMSDiscreteScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                       const Tensor& timesteps) const {
  return karras_add_noise(run_, schedule_, original_samples, noise, timesteps, kClassName);
}

Tensor LMSDiscreteScheduler::scale_model_input(const Tensor& sample, const Tensor& timestep) const {
  return karras_model_input(sample, run_.sigma(run_.index(timestep, kClassName)));
}

void LMSDiscreteScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                         const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps);
  const SigmaSpread spread = sigma_spread(kClassName, config_);
  // Karras sigmas span the complete schedule in this class, for any bounds in the config.
  const bool bounded = spread != SigmaSpread::kKarras;
  auto [timesteps, sigmas] = karras_schedule(
      config_.timestep_spacing, config_.num_train_timesteps, n, config_.steps_offset, spread,
      training_sigmas(schedule_.alphas_cumprod()), bounded ? hidden_number("sigma_min") : std::nullopt,
      bounded ? hidden_number("sigma_max") : std::nullopt);
  sigmas.push_back(0);
  run_ = SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), at::kFloat, options.device));
  derivatives_.clear();
}

/// Integrates, from sigma_i to sigma_{i+1}, the Lagrange polynomial that is 1 at the level `which` steps
/// back.
double LMSDiscreteScheduler::coefficient(int64_t order, int64_t step, int64_t which) const {
  const auto polynomial = [&](double tau) {
    double product = 1;
    for (int64_t k = 0; k < order; ++k)
      if (k != which)
        product *= (tau - run_.sigma(step - k)) /
                   (static_cast<double>(run_.sigma(step - which)) - run_.sigma(step - k));
    return product;
  };
  const double from = run_.sigma(step);
  const double to = run_.sigma(step + 1);
  // Simpson's rule is exact for the cubic.
  return (to - from) / 6 * (polynomial(from) + 4 * polynomial((from + to) / 2) + polynomial(to));
}

SchedulerOutput LMSDiscreteScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                           const Tensor& sample, const StepOptions& options) {
  check_step_options(kClassName, options, {.order = true});
  const int64_t most = options.order.value_or(kLmsOrder);
  require<ConfigError>(most >= 1 && most <= kLmsOrder, "{}: step: order is {}, expected 1 to {}", kClassName,
                       most, kLmsOrder);
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const float sigma = run_.sigma(i);
  const Tensor pred_original_sample =
      karras_data_prediction(config_.prediction_type, model_output, sample, sigma);
  derivatives_.push_back(at::sub(sample, pred_original_sample).div_(sigma));
  if (static_cast<int64_t>(derivatives_.size()) > most) derivatives_.erase(derivatives_.begin());

  // A run that starts in the middle has fewer derivatives than previous steps.
  int64_t order = std::min(i + 1, most);
  // A noise level that occurs twice cannot be a node twice.
  for (int64_t k = 1; k < order; ++k)
    if (run_.sigma(i - k) == run_.sigma(i - k + 1)) order = k;
  std::vector<ScaledTerm> terms;
  for (int64_t k = 0; k < std::min(order, static_cast<int64_t>(derivatives_.size())); ++k) {
    const Tensor& derivative = derivatives_[derivatives_.size() - 1 - static_cast<std::size_t>(k)];
    terms.push_back({coefficient(order, i, k), derivative});
  }
  run_.advance();
  return {.prev_sample = add_scaled(scaled_sum(terms), 1, sample),
          .pred_original_sample = pred_original_sample};
}

}  // namespace diffusers
