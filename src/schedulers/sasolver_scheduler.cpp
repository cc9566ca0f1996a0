#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <diffusers/schedulers/sasolver_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/dpm_solver_math.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(SASolverSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("beta_start", config.beta_start);
  visit("beta_end", config.beta_end);
  visit("beta_schedule", config.beta_schedule);
  visit("trained_betas", config.trained_betas);
  visit("predictor_order", config.predictor_order);
  visit("corrector_order", config.corrector_order);
  visit("prediction_type", config.prediction_type);
  visit.program_only("tau_func", static_cast<bool>(config.tau_func));
  visit("thresholding", config.thresholding);
  visit("dynamic_thresholding_ratio", config.dynamic_thresholding_ratio);
  visit("sample_max_value", config.sample_max_value);
  visit("algorithm_type", config.algorithm_type);
  visit("lower_order_final", config.lower_order_final);
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

template class ConfiguredScheduler<SASolverScheduler, SASolverSchedulerConfig>;

namespace {

// The coefficients are small differences of large numbers, which Python computes in float32. The results
// depend on every rounding, so the operations below have Python's order.

/// Returns p(x) = x^n + sign n x^{n-1} + n (n-1) x^{n-2} + ..., n <= 3. The derivative of p(x) exp(-sign x)
/// is -sign x^n exp(-sign x).
float exponential_polynomial(int64_t n, float x, float sign) {
  switch (n) {
    case 0:
      return 1;
    case 1:
      return x + sign;
    case 2:
      return x * x + sign * (2 * x) + 2;
    default:
      return x * x * x + sign * (3 * (x * x)) + 6 * x + sign * 6;
  }
}

/// Integrates lambda^n exp(-lambda) from start to end.
float integral_noise(int64_t n, float start, float end) {
  return torch_exp(-end) *
         (exponential_polynomial(n, start, 1) * torch_exp(end - start) - exponential_polynomial(n, end, 1));
}

/// Integrates lambda^n exp((1 + tau^2) lambda) from start to end.
float integral_data(int64_t n, float start, float end, double weight) {
  const float e = static_cast<float>(weight) * end;
  const float s = static_cast<float>(weight) * start;
  return torch_exp(e) *
         (exponential_polynomial(n, e, -1) - exponential_polynomial(n, s, -1) * torch_exp(-(e - s))) /
         static_cast<float>(std::pow(weight, static_cast<double>(n + 1)));
}

/// Returns the coefficients, highest power first, of the Lagrange polynomial that is 1 at nodes[which] and 0
/// at the other nodes. There are at most four nodes.
std::vector<float> lagrange(const std::vector<float>& nodes, std::size_t which) {
  std::vector<float> others;
  float denominator = 1;
  for (std::size_t k = 0; k < nodes.size(); ++k) {
    if (k == which) continue;
    others.push_back(nodes[k]);
    denominator *= nodes[which] - nodes[k];
  }
  switch (others.size()) {
    case 0:
      return {1};
    case 1:
      return {1 / denominator, -others[0] / denominator};
    case 2:
      return {1 / denominator, (-others[0] - others[1]) / denominator, others[0] * others[1] / denominator};
    default:
      return {1 / denominator, (-others[0] - others[1] - others[2]) / denominator,
              (others[0] * others[1] + others[0] * others[2] + others[1] * others[2]) / denominator,
              (-others[0] * others[1] * others[2]) / denominator};
  }
}

/// Integrates that polynomial times exp(rate lambda) from start to end, in float64.
double lagrange_quadrature(const std::vector<float>& nodes, std::size_t which, double start, double end,
                           double rate) {
  return gauss_legendre(start, end, [&](double x) {
    double value = std::exp(rate * x);
    for (std::size_t k = 0; k < nodes.size(); ++k)
      if (k != which) value *= (x - nodes[k]) / (static_cast<double>(nodes[which]) - nodes[k]);
    return value;
  });
}

}  // namespace

SASolverScheduler::SASolverScheduler(SASolverSchedulerConfig config)
    : SigmaScheduler(std::move(config)), schedule_(finite_noise_schedule(beta_options(config_))) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction,
                         PredictionType::kFlowPrediction});
  require<ConfigError>(config_.algorithm_type == AlgorithmType::kDataPrediction ||
                           config_.algorithm_type == AlgorithmType::kNoisePrediction,
                       "{}: algorithm_type is \"{}\", expected data_prediction or noise_prediction",
                       kClassName, config_.algorithm_type.name());
  require<ConfigError>(
      config_.algorithm_type == AlgorithmType::kDataPrediction ||
          config_.prediction_type != PredictionType::kFlowPrediction,
      "{}: algorithm_type \"noise_prediction\" cannot take prediction_type \"flow_prediction\"", kClassName);
  for (const auto& [key, order] : {std::pair{"predictor_order", config_.predictor_order},
                                   std::pair{"corrector_order", config_.corrector_order}})
    require<ConfigError>(order >= 1 && order <= 4, "{}: {} is {}, expected 1 to 4", kClassName, key, order);
  if (config_.thresholding)
    check_thresholding(kClassName, config_.dynamic_thresholding_ratio, config_.sample_max_value);
  sigma_spread(kClassName, config_);
  clipped_timestep_count(kClassName, schedule_, config_.num_train_timesteps, config_.lambda_min_clipped);
  run_ = training_run(schedule_, at::kFloat);
}

double SASolverScheduler::tau(double timestep) const {
  return config_.tau_func ? config_.tau_func(timestep) : timestep >= 200 && timestep <= 800 ? 1.0 : 0.0;
}

Tensor SASolverScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                    const Tensor& timesteps) const {
  return schedule_.add_noise(original_samples, noise, timesteps);
}

void SASolverScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                      const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps, config_.num_train_timesteps);
  const SigmaSpread spread = sigma_spread(kClassName, config_);
  const int64_t last =
      clipped_timestep_count(kClassName, schedule_, config_.num_train_timesteps, config_.lambda_min_clipped);
  const std::vector<double> training = training_sigmas(schedule_.alphas_cumprod());
  auto [timesteps, sigmas] = solver_schedule(
      config_, spread,
      solver_timesteps(config_.timestep_spacing, config_.num_train_timesteps, last, n, config_.steps_offset),
      n, training, {training.rbegin(), training.rend()}, hidden_number("sigma_min"),
      hidden_number("sigma_max"), config_.flow_shift);
  const bool plain = spread == SigmaSpread::kPlain && !config_.use_flow_sigmas;
  sigmas.push_back(plain ? training.front() : sigmas.back());
  run_ = SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), at::kLong, options.device));
  outputs_.clear();
  last_sample_ = Tensor();
  last_noise_ = Tensor();
  timesteps_set_ = true;
}

/// Computes the stochastic Adams step from the level `from` to the next (Xue et al. 2023, eq. 14 to 17).
/// @param outputs the predictions at the levels newest, newest - 1, ...
Tensor SASolverScheduler::update(const std::vector<Tensor>& outputs, const Tensor& sample,
                                 const Tensor& noise, int64_t from, int64_t newest, int64_t order,
                                 bool corrector, double tau) const {
  const bool data = config_.algorithm_type == AlgorithmType::kDataPrediction;
  const auto level = [this](int64_t k) { return noise_level(run_.sigma(k), config_.use_flow_sigmas); };
  const auto lambda = [](const NoiseLevel& l) { return torch_log(l.alpha) - torch_log(l.sigma); };
  const NoiseLevel t = level(from + 1);
  const NoiseLevel s = level(from);
  const float lambda_t = lambda(t);
  const float lambda_s = lambda(s);
  const float h = lambda_t - lambda_s;
  const double tau2 = tau * tau;
  const double weight = 1 + tau2;
  const auto w = static_cast<float>(weight);
  std::vector<float> nodes;
  for (int64_t k = 0; k < order; ++k) {
    const float node = lambda(level(newest - k));
    if (!nodes.empty() && node == nodes.back()) break;  // a noise level that occurs twice in the run
    nodes.push_back(node);
  }
  order = static_cast<int64_t>(nodes.size());
  std::vector<float> coefficients;
  bool drowned = false;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const std::vector<float> polynomial = lagrange(nodes, i);
    float sum = 0;
    float largest = 0;
    float whole = 0;  // the last one is the integral of the constant 1
    for (std::size_t j = 0; j < polynomial.size(); ++j) {
      const auto power = static_cast<int64_t>(polynomial.size() - 1 - j);
      whole =
          data ? integral_data(power, lambda_s, lambda_t, weight) : integral_noise(power, lambda_s, lambda_t);
      sum += polynomial[j] * whole;
      largest = std::max(largest, std::abs(polynomial[j] * whole));
    }
    // An integral over a short step is a difference of antiderivatives. Its rounding error grows with the
    // polynomial. If the error reaches a tenth of the weight of the step, Python's samples diverge.
    const float rounding = largest * std::numeric_limits<float>::epsilon() / std::min(std::abs(h), 1.0f);
    drowned = drowned || !(rounding < 0.1f * std::abs(whole));
    coefficients.push_back(sum);
  }
  if (drowned && h != 0)
    for (std::size_t i = 0; i < nodes.size(); ++i)
      coefficients[i] =
          static_cast<float>(lagrange_quadrature(nodes, i, lambda_s, lambda_t, data ? weight : -1.0));
  if (data && order == 2 && !drowned) {
    // The second-order term of the authors' code, which is exact to that order.
    const auto w2 = static_cast<float>(weight * weight);
    const float tail = h * w - 1 + torch_exp(w * -h);
    const float change =
        corrector ? torch_exp(w * lambda_t) * (h / 2 - tail / (w2 * h))
                  : torch_exp(w * lambda_t) * (h * h / 2 - tail / w2) / (lambda_s - lambda(level(from - 1)));
    coefficients[0] += change;
    coefficients[1] -= change;
  }
  const float scale = data ? w * t.sigma * torch_exp(static_cast<float>(-tau2) * lambda_t) : -w * t.alpha;
  // Large terms of the sum cancel, so each term is rounded as in Python.
  Tensor gradient = at::mul(outputs[0], scale * coefficients[0]);
  for (std::size_t i = 1; i < coefficients.size(); ++i)
    gradient.add_(at::mul(outputs[i], scale * coefficients[i]));
  Tensor x = at::mul(
      sample, data ? torch_exp(static_cast<float>(-tau2) * h) * (t.sigma / s.sigma) : t.alpha / s.alpha);
  const float noise_scale = data ? t.sigma * torch_sqrt(1 - torch_exp(static_cast<float>(-2 * tau2) * h))
                                 : static_cast<float>(tau) * t.sigma * torch_sqrt(torch_exp(2 * h) - 1);
  x = add_scaled(add_scaled(x, 1, gradient), noise_scale, noise);
  return x.to(sample.scalar_type());
}

SchedulerOutput SASolverScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                        const Tensor& sample, const StepOptions& options) {
  require(timesteps_set_, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample, has_learned_variance(config_));
  const int64_t i = run_.enter(timestep, kClassName);
  const int64_t remaining = run_.timesteps().size() - i;
  const NoiseLevel now = noise_level(run_.sigma(i), config_.use_flow_sigmas);
  const Tensor output =
      has_learned_variance(config_) ? model_output.narrow(1, 0, sample.size(1)) : model_output;
  Tensor prediction;
  if (config_.algorithm_type == AlgorithmType::kDataPrediction) {
    prediction = data_prediction(config_.prediction_type, output, sample, now);
    if (config_.thresholding)
      prediction = threshold_sample(prediction, config_.dynamic_thresholding_ratio, config_.sample_max_value);
  } else {
    prediction = noise_prediction(config_.prediction_type, output, sample, now);
    if (config_.thresholding) {
      const Tensor x0 = threshold_sample(data_prediction(PredictionType::kEpsilon, prediction, sample, now),
                                         config_.dynamic_thresholding_ratio, config_.sample_max_value);
      prediction = noise_prediction(PredictionType::kSample, x0, sample, now);
    }
  }

  const auto behind = static_cast<int64_t>(outputs_.size());
  outputs_.insert(outputs_.begin(), prediction);
  Tensor x = sample;
  if (i > 0 && last_sample_.defined())
    x = update(outputs_, last_sample_, last_noise_, i - 1, i, corrector_order_, true, tau(last_timestep_));
  const int64_t capacity = std::max(config_.predictor_order, config_.corrector_order - 1);
  if (static_cast<int64_t>(outputs_.size()) > capacity) outputs_.pop_back();

  int64_t predictor_order = config_.predictor_order;
  int64_t corrector_order = config_.corrector_order;
  if (config_.lower_order_final) {
    predictor_order = std::min(predictor_order, remaining);
    corrector_order = std::min(corrector_order, remaining + 1);
  }
  predictor_order = std::min(predictor_order, behind + 1);
  corrector_order_ = std::min(corrector_order, behind + 2);
  last_sample_ = x;
  last_noise_ = step_noise(options, prediction);
  last_timestep_ = run_.timesteps()[i];
  const Tensor prev_sample =
      update(outputs_, x, last_noise_, i, i, predictor_order, false, tau(last_timestep_));
  run_.advance();
  return {.prev_sample = prev_sample};
}

}  // namespace diffusers
