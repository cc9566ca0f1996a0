#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include <diffusers/schedulers/deis_multistep_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/dpm_solver_math.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(DEISMultistepSchedulerConfig& config, ConfigVisitor& visit) {
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
  visit("timestep_spacing", config.timestep_spacing);
  visit("steps_offset", config.steps_offset);
  visit("use_dynamic_shifting", config.use_dynamic_shifting);
  visit("time_shift_type", config.time_shift_type);
}

template class ConfiguredScheduler<DEISMultistepScheduler, DEISMultistepSchedulerConfig>;

namespace {

/// Antiderivatives, in rho, of the polynomials in log rho that are 1 at b and 0 at c (and d).
float lagrange_integral(float t, float b, float c) {
  return t * (-numpy_log(c) + numpy_log(t) - 1) / (numpy_log(b) - numpy_log(c));
}
float lagrange_integral(float t, float b, float c, float d) {
  const float lt = numpy_log(t), lc = numpy_log(c), ld = numpy_log(d), lb = numpy_log(b);
  return t * (lc * (ld - lt + 1) - ld * lt + ld + lt * lt - 2 * lt + 2) / ((lb - lc) * (lb - ld));
}

/// Returns the weight of the prediction at rho = b for the step from rho_0 to rho_t; the other predictions
/// are at `zeros`. Over short steps the difference of the float32 antiderivatives is dominated by rounding,
/// and Python's samples diverge.
float deis_weight(float rho_t, float rho_0, float b, const std::vector<float>& zeros) {
  const bool second = zeros.size() == 1;
  const float log_b = std::log(b);
  float divisor = 1;
  for (const float zero : zeros) divisor *= log_b - std::log(zero);
  // Rounding error: about eight roundings of terms of this size.
  const float terms = 8 * (second ? 1 + std::abs(log_b) : 2 + log_b * log_b);
  const float rounding =
      std::max(rho_t, rho_0) * terms * std::numeric_limits<float>::epsilon() / std::abs(divisor);
  if (rounding < 0.1f * std::abs(rho_t - rho_0))
    return second ? lagrange_integral(rho_t, b, zeros[0]) - lagrange_integral(rho_0, b, zeros[0])
                  : lagrange_integral(rho_t, b, zeros[0], zeros[1]) -
                        lagrange_integral(rho_0, b, zeros[0], zeros[1]);
  return static_cast<float>(gauss_legendre(rho_0, rho_t, [&](double rho) {
    double value = 1;
    for (const float zero : zeros) value *= std::log(rho / zero) / std::log(static_cast<double>(b) / zero);
    return value;
  }));
}

}  // namespace

DEISMultistepScheduler::DEISMultistepScheduler(DEISMultistepSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(finite_noise_schedule(beta_options(config_))) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction,
                         PredictionType::kFlowPrediction});
  require<ConfigError>(config_.solver_order >= 1 && config_.solver_order <= 3,
                       "{}: solver_order is {}, expected 1 to 3", kClassName, config_.solver_order);
  if (config_.thresholding)
    check_thresholding(kClassName, config_.dynamic_thresholding_ratio, config_.sample_max_value);
  // As in Python, the deterministic integrators of other classes are converted to "deis".
  require<ConfigError>(
      config_.algorithm_type == AlgorithmType::kDeis || config_.algorithm_type == AlgorithmType::kDpmsolver ||
          config_.algorithm_type == AlgorithmType::kDpmsolverPlusPlus,
      "{}: algorithm_type is \"{}\", expected \"deis\"", kClassName, config_.algorithm_type.name());
  config_.algorithm_type = AlgorithmType::kDeis;
  config_.solver_type = SolverType::kLogrho;
  sigma_spread(kClassName, config_);
  run_ = training_run(schedule_, at::kFloat);
}

Tensor DEISMultistepScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                         const Tensor& timesteps) const {
  return solver_add_noise(run_, schedule_, config_.use_flow_sigmas, original_samples, noise, timesteps,
                          kClassName);
}

void DEISMultistepScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                           const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.mu = true});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps, config_.num_train_timesteps);
  const SigmaSpread spread = sigma_spread(kClassName, config_);
  const std::vector<double> training = training_sigmas(schedule_.alphas_cumprod());
  auto [timesteps, sigmas] =
      solver_schedule(config_, spread,
                      solver_timesteps(config_.timestep_spacing, config_.num_train_timesteps,
                                       config_.num_train_timesteps, n, config_.steps_offset),
                      n, training, {training.rbegin(), training.rend()}, hidden_number("sigma_min"),
                      hidden_number("sigma_max"), run_flow_shift(kClassName, config_, options.mu));
  const bool plain = spread == SigmaSpread::kPlain && !config_.use_flow_sigmas;
  sigmas.push_back(plain ? training.front() : sigmas.back());
  run_ = SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), at::kLong, options.device));
  outputs_.clear();
  timesteps_set_ = true;
}

SchedulerOutput DEISMultistepScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                             const Tensor& sample, const StepOptions& options) {
  require(timesteps_set_, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const int64_t count = run_.timesteps().size();
  const auto level = [&](int64_t k) { return noise_level(run_.sigma(k), config_.use_flow_sigmas); };
  const NoiseLevel t = level(i + 1);
  const NoiseLevel s = level(i);
  Tensor x0 = data_prediction(config_.prediction_type, model_output, sample, s);
  if (config_.thresholding)
    x0 = threshold_sample(x0, config_.dynamic_thresholding_ratio, config_.sample_max_value);
  outputs_.insert(outputs_.begin(), plus_scaled(sample, -s.alpha, x0).div_(s.sigma));
  if (static_cast<int64_t>(outputs_.size()) > config_.solver_order) outputs_.pop_back();

  const bool few_steps = config_.lower_order_final && count < 15;
  int64_t order = static_cast<int64_t>(outputs_.size());
  if (i == count - 1 && few_steps) order = 1;
  if (i == count - 2 && few_steps) order = std::min<int64_t>(order, 2);

  // A noise level that occurs twice in the run adds no node to the polynomial.
  for (int64_t k = 1; k < order; ++k)
    if (run_.sigma(i - k) == run_.sigma(i - k + 1)) order = k;

  Tensor prev_sample;
  if (order == 1) {
    prev_sample = dpm_solver_update(AlgorithmType::kDpmsolver, SolverType::kMidpoint, t, s, sample,
                                    outputs_[0], {}, {}, {});
  } else {
    std::array<float, 3> rho{};
    for (int64_t k = 0; k < order; ++k)
      rho[static_cast<std::size_t>(k)] = level(i - k).sigma / level(i - k).alpha;
    const float rho_t = t.sigma / t.alpha;
    std::vector<ScaledTerm> terms;
    if (order == 2) {
      const auto weight = [&](float b, float c) { return deis_weight(rho_t, rho[0], b, {c}); };
      terms = {{weight(rho[0], rho[1]), outputs_[0]}, {weight(rho[1], rho[0]), outputs_[1]}};
    } else {
      const auto weight = [&](float b, float c, float d) { return deis_weight(rho_t, rho[0], b, {c, d}); };
      terms = {{weight(rho[0], rho[1], rho[2]), outputs_[0]},
               {weight(rho[1], rho[2], rho[0]), outputs_[1]},
               {weight(rho[2], rho[0], rho[1]), outputs_[2]}};
    }
    prev_sample = at::div(sample, s.alpha);
    for (const auto& [a, x] : terms) prev_sample = add_scaled(prev_sample, a, x);
    prev_sample = scaled_in_place(prev_sample, t.alpha);
  }
  run_.advance();
  return {.prev_sample = prev_sample};
}

}  // namespace diffusers
