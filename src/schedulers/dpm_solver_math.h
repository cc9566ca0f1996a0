#pragma once

// The exponential integrators of DPM-Solver (Lu et al. 2022, arXiv 2206.00927), DPM-Solver++ (arXiv
// 2211.01095) and their stochastic forms, in the half log-SNR lambda. Multistep and singlestep solvers differ
// only in which earlier predictions make the differences D1 and D2.

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "schedulers/sigma_math.h"

namespace diffusers {
inline namespace internal {

/// Returns true for the integrators of x_0, false for those of epsilon.
constexpr bool predicts_data(AlgorithmType algorithm) {
  return algorithm == AlgorithmType::kDpmsolverPlusPlus || algorithm == AlgorithmType::kSdeDpmsolverPlusPlus;
}
constexpr bool is_stochastic(AlgorithmType algorithm) {
  return algorithm == AlgorithmType::kSdeDpmsolver || algorithm == AlgorithmType::kSdeDpmsolverPlusPlus;
}

/// Computes the step from noise level s to t: x_t = c x_s + c0 D0 + c1 D1 + c2 D2 + (noise).
/// @param d1, d2 undefined for a lower order
/// @param noise standard normal; undefined for the deterministic integrators
Tensor dpm_solver_update(AlgorithmType algorithm, SolverType solver, const NoiseLevel& t, const NoiseLevel& s,
                         const Tensor& sample, const Tensor& d0, const Tensor& d1, const Tensor& d2,
                         const Tensor& noise);

/// Computes a multistep step of order 1, 2 or 3.
/// @param levels noise levels of the next, the current and the previous two steps, as many as the order needs
/// @param outputs the predictions at levels[1], levels[2], ...
Tensor multistep_update(AlgorithmType algorithm, SolverType solver, const std::vector<NoiseLevel>& levels,
                        const std::vector<Tensor>& outputs, const Tensor& sample, const Tensor& noise);

/// Computes a singlestep step of order 1, 2 or 3, which starts from the sample at the oldest of its levels.
Tensor singlestep_update(AlgorithmType algorithm, SolverType solver, const std::vector<NoiseLevel>& levels,
                         const std::vector<Tensor>& outputs, const Tensor& sample, const Tensor& noise);

/// Converts the model output to x_0 or epsilon, whichever the integrator uses. The caller applies
/// thresholding.
template <class Config>
Tensor dpm_solver_prediction(const Config& config, const Tensor& model_output, const Tensor& sample,
                             float sigma) {
  const NoiseLevel level = noise_level(sigma, config.use_flow_sigmas);
  Tensor output = model_output;
  if (config.prediction_type == PredictionType::kEpsilon && output.size(1) != sample.size(1))
    output = output.narrow(1, 0, sample.size(1));  // the rest is a learned variance
  if (predicts_data(config.algorithm_type)) {
    const Tensor x0 = data_prediction(config.prediction_type, output, sample, level);
    return config.thresholding
               ? threshold_sample(x0, config.dynamic_thresholding_ratio, config.sample_max_value)
               : x0;
  }
  Tensor epsilon = noise_prediction(config.prediction_type, output, sample, level);
  if (!config.thresholding) return epsilon;
  const Tensor x0 = threshold_sample(data_prediction(PredictionType::kEpsilon, epsilon, sample, level),
                                     config.dynamic_thresholding_ratio, config.sample_max_value);
  return noise_prediction(PredictionType::kSample, x0, sample, level);
}

/// Integrates f from start to end by Gauss-Legendre quadrature with five points. Over a short step it is more
/// exact than a difference of antiderivatives.
template <class Function>
double gauss_legendre(double start, double end, Function f) {
  constexpr std::array<std::pair<double, double>, 5> kPoints{{{-0.906179845938664, 0.236926885056189},
                                                              {-0.538469310105683, 0.478628670499366},
                                                              {0.0, 0.568888888888889},
                                                              {0.538469310105683, 0.478628670499366},
                                                              {0.906179845938664, 0.236926885056189}}};
  double sum = 0;
  for (const auto& [place, weight] : kPoints)
    sum += weight * f(0.5 * (start + end) + 0.5 * (end - start) * place);
  return 0.5 * (end - start) * sum;
}

/// Returns true if the model also predicts a variance, so that its output has twice the channels of the
/// sample.
template <class Config>
bool has_learned_variance(const Config& config) {
  return config.prediction_type == PredictionType::kEpsilon &&
         (config.variance_type == VarianceType::kLearned ||
          config.variance_type == VarianceType::kLearnedRange);
}

/// Returns the number of training timesteps with a half log-SNR of at least `lambda_min_clipped`, a limit
/// that cosine betas need.
int64_t clipped_timestep_count(std::string_view who, const NoiseSchedule& schedule,
                               int64_t num_train_timesteps, double lambda_min_clipped);

/// Converts values from configs of other members of the family, and checks the combination of options.
template <class Config>
void check_dpm_solver_config(std::string_view who, Config& config, int64_t max_order) {
  check_prediction_type(who, config.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction,
                         PredictionType::kFlowPrediction});
  require<ConfigError>(config.solver_order >= 1 && config.solver_order <= max_order,
                       "{}: solver_order is {}, expected 1 to {}", who, config.solver_order, max_order);
  if (config.thresholding)
    check_thresholding(who, config.dynamic_thresholding_ratio, config.sample_max_value);
  // As in Python, an integrator of another class is converted to this class's default.
  if (config.algorithm_type == AlgorithmType::kDeis)
    config.algorithm_type = AlgorithmType::kDpmsolverPlusPlus;
  if (config.solver_type != SolverType::kHeun) config.solver_type = SolverType::kMidpoint;
  require<ConfigError>(config.algorithm_type != AlgorithmType::kDataPrediction &&
                           config.algorithm_type != AlgorithmType::kNoisePrediction,
                       "{}: algorithm_type is \"{}\", expected one of the dpmsolver family", who,
                       config.algorithm_type.name());
  require<ConfigError>(
      predicts_data(config.algorithm_type) || config.prediction_type != PredictionType::kFlowPrediction,
      "{}: algorithm_type \"{}\" cannot take prediction_type \"flow_prediction\"", who,
      config.algorithm_type.name());
  if constexpr (requires { config.final_sigmas_type; })
    require<ConfigError>(
        predicts_data(config.algorithm_type) || config.final_sigmas_type != FinalSigmasType::kZero,
        "{}: final_sigmas_type \"zero\" cannot be reached with algorithm_type \"{}\"; choose \"sigma_min\"",
        who, config.algorithm_type.name());
  require<ConfigError>(config.algorithm_type != AlgorithmType::kSdeDpmsolver || config.solver_order < 3,
                       "{}: solver_order 3 does not exist for algorithm_type \"sde-dpmsolver\"", who);
}

/// Timesteps and sigmas of a run, without the last sigma.
struct SolverSchedule {
  std::vector<double> timesteps;
  std::vector<double> sigmas;
};

/// Computes the schedule of the solvers with the spacing of the config.
/// @param timesteps timesteps of the plain spacing
/// @param range the training sigmas in the direction of the run
template <class Config>
SolverSchedule solver_schedule(const Config& config, SigmaSpread spread, std::vector<double> timesteps,
                               int64_t n, const std::vector<double>& training,
                               const std::vector<double>& range, std::optional<double> sigma_min,
                               std::optional<double> sigma_max, double flow_shift, bool round_karras = true) {
  SolverSchedule schedule;
  if (spread != SigmaSpread::kPlain) {
    schedule.sigmas = spread_sigmas(spread, range, n, sigma_min, sigma_max);
    schedule.timesteps = sigmas_to_timesteps(schedule.sigmas, training);
    if (spread == SigmaSpread::kKarras && round_karras)
      for (double& t : schedule.timesteps) t = std::nearbyint(t);
  } else if (config.use_flow_sigmas) {
    const auto total = static_cast<double>(config.num_train_timesteps);
    const auto alphas = linspace(1, 1 / total, n + 1);
    for (auto alpha = alphas.rbegin(); alpha + 1 != alphas.rend(); ++alpha) {
      schedule.sigmas.push_back(shifted_sigma(1.0 - *alpha, flow_shift));
      schedule.timesteps.push_back(schedule.sigmas.back() * total);
    }
  } else {
    schedule.sigmas = interpolate(timesteps, training);
    schedule.timesteps = std::move(timesteps);
  }
  return schedule;
}

/// Returns the last sigma of a run: 0, or that of the first training timestep, but at most the level before
/// it (a flow ends below it).
template <class Config>
double final_sigma(const Config& config, const std::vector<double>& sigmas, double first_training_sigma) {
  if (config.final_sigmas_type == FinalSigmasType::kZero) return 0;
  return std::min(first_training_sigma, sigmas.back());
}

/// Returns flow_shift, or exp(mu) if the config shifts dynamically.
template <class Config>
double run_flow_shift(std::string_view who, const Config& config, const std::optional<double>& mu) {
  if (!mu) return config.flow_shift;
  require<ConfigError>(config.use_dynamic_shifting && config.time_shift_type == TimeShiftType::kExponential,
                       "{}: mu needs use_dynamic_shifting = true and time_shift_type \"exponential\"", who);
  return std::exp(*mu);
}

}  // namespace internal
}  // namespace diffusers
