#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/unipc_multistep_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/dpm_solver_math.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(UniPCMultistepSchedulerConfig& config, ConfigVisitor& visit) {
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
  visit("predict_x0", config.predict_x0);
  visit("solver_type", config.solver_type);
  visit("lower_order_final", config.lower_order_final);
  visit.list("disable_corrector", config.disable_corrector);
  visit.program_only("solver_p", config.solver_p != nullptr);
  visit("use_karras_sigmas", config.use_karras_sigmas);
  visit("use_exponential_sigmas", config.use_exponential_sigmas);
  visit("use_beta_sigmas", config.use_beta_sigmas);
  visit("use_flow_sigmas", config.use_flow_sigmas);
  visit("flow_shift", config.flow_shift);
  visit("timestep_spacing", config.timestep_spacing);
  visit("steps_offset", config.steps_offset);
  visit("final_sigmas_type", config.final_sigmas_type);
  visit("rescale_betas_zero_snr", config.rescale_betas_zero_snr);
  visit("use_dynamic_shifting", config.use_dynamic_shifting);
  visit("time_shift_type", config.time_shift_type);
  visit("sigma_min", config.sigma_min);
  visit("sigma_max", config.sigma_max);
  visit("shift_terminal", config.shift_terminal);
}

template class ConfiguredScheduler<UniPCMultistepScheduler, UniPCMultistepSchedulerConfig>;

namespace {

/// Solves A x = b for the small systems of the solver, by Gaussian elimination with pivoting.
std::vector<double> solve(std::vector<std::vector<double>> a, std::vector<double> b) {
  const std::size_t n = b.size();
  for (std::size_t column = 0; column < n; ++column) {
    std::size_t pivot = column;
    for (std::size_t row = column + 1; row < n; ++row)
      if (std::abs(a[row][column]) > std::abs(a[pivot][column])) pivot = row;
    std::swap(a[column], a[pivot]);
    std::swap(b[column], b[pivot]);
    for (std::size_t row = column + 1; row < n; ++row) {
      const double factor = a[row][column] / a[column][column];
      for (std::size_t k = column; k < n; ++k) a[row][k] -= factor * a[column][k];
      b[row] -= factor * b[column];
    }
  }
  for (std::size_t row = n; row-- > 0;) {
    for (std::size_t k = row + 1; k < n; ++k) b[row] -= a[row][k] * b[k];
    b[row] /= a[row][row];
  }
  return b;
}

/// The matrix R and the vector b of Zhao et al. 2023, theorem 3.1 and eq. 11.
struct UniPCSystem {
  std::vector<std::vector<double>> r;
  std::vector<double> b;
  float h_phi_1 = 0;
  float b_h = 0;
};
UniPCSystem unipc_system(const std::vector<double>& rks, float hh, SolverType solver) {
  UniPCSystem system;
  system.h_phi_1 = torch_expm1(hh);
  system.b_h = solver == SolverType::kBh1 ? hh : system.h_phi_1;
  double h_phi_k = std::expm1(static_cast<double>(hh)) / hh - 1;
  double factorial = 1;
  for (std::size_t i = 1; i <= rks.size(); ++i) {
    std::vector<double> row;
    for (const double rk : rks) row.push_back(std::pow(rk, static_cast<double>(i - 1)));
    system.r.push_back(std::move(row));
    system.b.push_back(h_phi_k * factorial / system.b_h);
    factorial *= static_cast<double>(i + 1);
    h_phi_k = h_phi_k / hh - 1 / factorial;
  }
  return system;
}

/// Computes x - b_h (rho_1 D_1 + rho_2 D_2 + ...), in place in x unless dtypes promote. The differences are
/// overwritten.
Tensor unipc_update(const Tensor& x, float b_h, const std::vector<double>& rhos,
                    const std::vector<Tensor>& differences) {
  if (rhos.empty()) return x;
  Tensor sum = scaled_in_place(differences[0], rhos[0]);
  for (std::size_t i = 1; i < rhos.size(); ++i)
    sum = add_scaled(sum, 1, scaled_in_place(differences[i], rhos[i]));
  return add_scaled(x, -1, scaled_in_place(sum, b_h));
}

}  // namespace

UniPCMultistepScheduler::UniPCMultistepScheduler(UniPCMultistepSchedulerConfig config)
    : SigmaScheduler(std::move(config)),
      schedule_(finite_noise_schedule(beta_options(config_))),
      solver_p_(config_.solver_p) {
  check_prediction_type(kClassName, config_.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction,
                         PredictionType::kFlowPrediction});
  require<ConfigError>(config_.predict_x0 || config_.prediction_type != PredictionType::kFlowPrediction,
                       "{}: predict_x0 = false cannot take prediction_type \"flow_prediction\"", kClassName);
  require<ConfigError>(config_.solver_order >= 1 && config_.solver_order <= 16,
                       "{}: solver_order is {}, expected 1 to 16", kClassName, config_.solver_order);
  require<ConfigError>(!config_.shift_terminal || config_.use_flow_sigmas,
                       "{}: shift_terminal needs use_flow_sigmas = true", kClassName);
  require<ConfigError>(config_.lower_order_final || config_.final_sigmas_type != FinalSigmasType::kZero ||
                           config_.solver_order == 1,
                       "{}: lower_order_final = false needs final_sigmas_type \"sigma_min\"", kClassName);
  if (config_.thresholding)
    check_thresholding(kClassName, config_.dynamic_thresholding_ratio, config_.sample_max_value);
  // As in Python, a solver type of another class is converted to "bh2".
  if (config_.solver_type != SolverType::kBh1) config_.solver_type = SolverType::kBh2;
  sigma_spread(kClassName, config_, /*karras_flow=*/true);
  run_ = training_run(schedule_, at::kFloat);
}

Tensor UniPCMultistepScheduler::add_noise(const Tensor& original_samples, const Tensor& noise,
                                          const Tensor& timesteps) const {
  return solver_add_noise(run_, schedule_, config_.use_flow_sigmas, original_samples, noise, timesteps,
                          kClassName);
}

void UniPCMultistepScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                            const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {.sigmas = true, .mu = true});
  require<ConfigError>(!config_.use_dynamic_shifting || options.mu,
                       "{}: use_dynamic_shifting is true, so set_timesteps needs mu", kClassName);
  const SigmaSpread spread = sigma_spread(kClassName, config_, /*karras_flow=*/true);
  const bool custom = !options.sigmas.empty();
  require<ConfigError>(!custom || (config_.use_flow_sigmas && spread == SigmaSpread::kPlain),
                       "{}: sigmas can be given with use_flow_sigmas = true only", kClassName);
  const int64_t n = checked_num_inference_steps(
      kClassName, custom ? static_cast<int64_t>(options.sigmas.size()) : num_inference_steps,
      config_.num_train_timesteps);
  const std::vector<double> training = training_sigmas(schedule_.alphas_cumprod());
  const std::vector<double> range(training.rbegin(), training.rend());
  const auto total = static_cast<double>(config_.num_train_timesteps);
  std::vector<double> sigmas;
  std::vector<double> timesteps;
  bool last_is_training_sigma = false;
  if (spread != SigmaSpread::kPlain) {
    sigmas = spread_sigmas(spread, range, n, config_.sigma_min, config_.sigma_max);
    if (spread == SigmaSpread::kKarras && config_.use_flow_sigmas) {
      for (double& sigma : sigmas) {
        sigma = sigma / (sigma + 1);
        timesteps.push_back(sigma * total);
      }
    } else {
      timesteps = sigmas_to_timesteps(sigmas, training);
      if (spread == SigmaSpread::kKarras)
        for (double& t : timesteps) t = std::nearbyint(t);
    }
  } else if (config_.use_flow_sigmas) {
    sigmas = options.sigmas;
    if (!custom) {
      sigmas = linspace(1, 1 / total, n + 1);
      sigmas.pop_back();
    }
    for (double& sigma : sigmas)
      sigma = config_.use_dynamic_shifting
                  ? dynamically_shifted_sigma(sigma, *options.mu, config_.time_shift_type)
                  : shifted_sigma(sigma, config_.flow_shift);
    if (config_.shift_terminal.value_or(0) != 0) stretch_to_terminal(sigmas, *config_.shift_terminal);
    // At sigma = 1 there is no signal, so the division would be by 0.
    constexpr double kEps = 1e-6;
    if (std::abs(sigmas.front() - 1) < kEps) sigmas.front() -= kEps;
    for (const double sigma : sigmas) timesteps.push_back(sigma * total);
  } else {
    timesteps = solver_timesteps(config_.timestep_spacing, config_.num_train_timesteps,
                                 config_.num_train_timesteps, n, config_.steps_offset);
    sigmas = interpolate(timesteps, training);
    last_is_training_sigma = true;
  }
  sigmas.push_back(config_.final_sigmas_type == FinalSigmasType::kZero ? 0.0
                   : last_is_training_sigma                            ? training.front()
                                                                       : sigmas.back());
  run_ = SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), at::kLong, options.device));
  outputs_.clear();
  last_sample_ = Tensor();
  last_order_ = 0;
  timesteps_set_ = true;
  if (solver_p_.get() != nullptr)
    solver_p_.get()->set_timesteps(run_.timesteps().size(), {.device = options.device});
}

/// Runs UniP (Zhao et al. 2023, algorithm 2) from the sample at `step` to the next level.
Tensor UniPCMultistepScheduler::predict(const Tensor& sample, int64_t step, int64_t order) const {
  const auto level = [this](int64_t k) { return noise_level(run_.sigma(k), config_.use_flow_sigmas); };
  const NoiseLevel t = level(step + 1);
  const NoiseLevel s = level(step);
  const Tensor& m0 = outputs_[0];
  if (t.sigma == 0) {  // the limit of the first order is the clean sample
    const Tensor x0 = config_.predict_x0 ? m0 : plus_scaled(sample, -s.sigma, m0).div_(s.alpha);
    return (t.alpha * x0).to(sample.scalar_type());
  }
  const float h = t.lambda() - s.lambda();
  if (h == 0) return sample;
  std::vector<double> rks;
  std::vector<Tensor> differences;
  for (int64_t i = 1; i < order; ++i) {
    rks.push_back((level(step - i).lambda() - s.lambda()) / h);
    differences.push_back(at::sub(outputs_[static_cast<std::size_t>(i)], m0).div_(rks.back()));
  }
  rks.push_back(1.0);
  const UniPCSystem system = unipc_system(rks, config_.predict_x0 ? -h : h, config_.solver_type);
  std::vector<double> rhos;
  if (order == 2) {
    rhos = {0.5};
  } else if (order > 2) {
    auto r = system.r;
    auto b = system.b;
    r.pop_back();
    b.pop_back();
    for (auto& row : r) row.pop_back();
    rhos = solve(std::move(r), std::move(b));
  }
  const float scale = config_.predict_x0 ? t.alpha : t.sigma;
  const float ratio = config_.predict_x0 ? t.sigma / s.sigma : t.alpha / s.alpha;
  const Tensor x = unipc_update(weighted_sum(ratio, sample, -scale * system.h_phi_1, m0), scale * system.b_h,
                                rhos, differences);
  return x.to(sample.scalar_type());
}

/// Runs UniC (Zhao et al. 2023, algorithm 1): repeats the previous step with the model output at its end.
Tensor UniPCMultistepScheduler::correct(const Tensor& model_output, const Tensor& last_sample, int64_t step,
                                        int64_t order) const {
  const auto level = [this](int64_t k) { return noise_level(run_.sigma(k), config_.use_flow_sigmas); };
  const NoiseLevel t = level(step);
  const NoiseLevel s = level(step - 1);
  const Tensor& m0 = outputs_[0];
  const float h = t.lambda() - s.lambda();
  if (h == 0) return last_sample;
  std::vector<double> rks;
  std::vector<Tensor> differences;
  for (int64_t i = 1; i < order; ++i) {
    rks.push_back((level(step - i - 1).lambda() - s.lambda()) / h);
    differences.push_back(at::sub(outputs_[static_cast<std::size_t>(i)], m0).div_(rks.back()));
  }
  rks.push_back(1.0);
  differences.push_back(model_output - m0);
  const UniPCSystem system = unipc_system(rks, config_.predict_x0 ? -h : h, config_.solver_type);
  const std::vector<double> rhos = order == 1 ? std::vector<double>{0.5} : solve(system.r, system.b);
  const float scale = config_.predict_x0 ? t.alpha : t.sigma;
  const float ratio = config_.predict_x0 ? t.sigma / s.sigma : t.alpha / s.alpha;
  const Tensor x = unipc_update(weighted_sum(ratio, last_sample, -scale * system.h_phi_1, m0),
                                scale * system.b_h, rhos, differences);
  return x.to(last_sample.scalar_type());
}

SchedulerOutput UniPCMultistepScheduler::step(const Tensor& model_output, const Tensor& timestep,
                                              const Tensor& sample, const StepOptions& options) {
  require(timesteps_set_, "{}: call set_timesteps before step", kClassName);
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const int64_t i = run_.enter(timestep, kClassName);
  const NoiseLevel now = noise_level(run_.sigma(i), config_.use_flow_sigmas);
  Tensor prediction;
  if (config_.predict_x0) {
    prediction = data_prediction(config_.prediction_type, model_output, sample, now);
    if (config_.thresholding)
      prediction = threshold_sample(prediction, config_.dynamic_thresholding_ratio, config_.sample_max_value);
  } else {
    prediction = noise_prediction(config_.prediction_type, model_output, sample, now);
  }
  const auto& disabled = config_.disable_corrector;
  const bool use_corrector =
      i > 0 && last_sample_.defined() && std::find(disabled.begin(), disabled.end(), i - 1) == disabled.end();
  const Tensor x = use_corrector ? correct(prediction, last_sample_, i, last_order_) : sample;

  outputs_.insert(outputs_.begin(), prediction);
  if (static_cast<int64_t>(outputs_.size()) > config_.solver_order) outputs_.pop_back();
  int64_t order = static_cast<int64_t>(outputs_.size());
  if (config_.lower_order_final) order = std::min(order, run_.timesteps().size() - i);
  // A noise level that occurs twice in the run adds no node to the polynomial.
  const auto lambda = [this](int64_t k) {
    return noise_level(run_.sigma(k), config_.use_flow_sigmas).lambda();
  };
  for (int64_t k = 1; k < order; ++k)
    if (lambda(i - k) == lambda(i - k + 1)) order = k;
  last_order_ = order;
  last_sample_ = x;
  const Tensor prev_sample = solver_p_.get() != nullptr
                                 ? solver_p_.get()->step(model_output, timestep, x).prev_sample
                                 : predict(x, i, order);
  run_.advance();
  return {.prev_sample = prev_sample};
}

}  // namespace diffusers
