#include "schedulers/sigma_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <diffusers/core/logging.h>
#include <diffusers/core/tensor.h>

#include <ATen/ATen.h>

#include "core/format.h"
#include "schedulers/step_math.h"

namespace diffusers {

SigmaRun::SigmaRun(const std::vector<double>& sigmas, TimestepSchedule timesteps, int64_t stages)
    : timesteps_(std::move(timesteps)), stages_(stages) {
  for (const double sigma : sigmas) host_.push_back(static_cast<float>(sigma));
  sigmas_ = at::tensor(host_, at::kFloat);
}

float SigmaRun::sigma(int64_t i) const {
  require(i >= 0 && i < num_sigmas(),
          "step {} is beyond the {} steps of this run; call set_timesteps to start again", i,
          timesteps_.size());
  return host_[static_cast<std::size_t>(i)];
}

float SigmaRun::max_sigma() const { return *std::max_element(host_.begin(), host_.end()); }

void SigmaRun::set_begin_index(int64_t begin_index) {
  require<ConfigError>(begin_index >= 0 && begin_index < timesteps_.size(),
                       "begin_index is {}, expected 0 to {}", begin_index, timesteps_.size() - 1);
  begin_index_ = begin_index;
}

int64_t SigmaRun::position(double timestep) const {
  const int64_t first = timesteps_.find(timestep);
  if (first <= 0) return first;
  for (int64_t i = first; i < timesteps_.size(); ++i)
    if (timesteps_[i] == timestep && (stages_ == 1 ? i > first : i % stages_ == 0)) return i;
  return first;
}

int64_t SigmaRun::place_of(const Tensor& timestep, std::string_view where) const {
  const double value = timesteps_.value_of(timestep, where);
  const auto places = timesteps_.places_of(timestep);
  if (!places) {
    const int64_t found = position(value);
    require<TensorError>(found >= 0, "{}: timestep {} is none of timesteps()", where, value);
    return found;
  }
  // The end of a step and the beginning of the next can be one timestep, twice.
  const int64_t place = places->front();
  const bool twice = place + 1 < timesteps_.size() && timesteps_[place + 1] == value;
  return place % stages_ != 0 && twice ? place + 1 : place;
}

int64_t SigmaRun::index(const Tensor& timestep, std::string_view where) const {
  if (step_index_) return *step_index_;
  if (begin_index_) return *begin_index_;
  return place_of(timestep, where);
}

int64_t SigmaRun::enter(const Tensor& timestep, std::string_view where) {
  const int64_t i = index(timestep, where);
  require(i < timesteps_.size(), "{}: all {} steps are done; call set_timesteps to start again", where,
          timesteps_.size());
  step_index_ = i;
  return i;
}

Tensor SigmaRun::per_sample_sigmas(const Tensor& timesteps, const Tensor& samples,
                                   const Tensor& training_sigmas, std::string_view where) const {
  require<TensorError>(
      timesteps.defined() && (timesteps.numel() == 1 || timesteps.numel() == samples.size(0)),
      "{}: timesteps are {}, expected one for each of the {} samples", where, describe(timesteps),
      samples.size(0));
  const auto dtype = samples.scalar_type();
  if (begin_index_) return at::full({}, sigma(step_index_ ? *step_index_ : *begin_index_), samples.options());
  const auto training_count = training_sigmas.defined() ? training_sigmas.size(0) : 0;
  const auto places = timesteps_.places_of(timesteps);
  if (!places && at::isIntegralType(timesteps.scalar_type(), /*includeBool=*/false) && training_count > 0) {
    // Every training timestep has its sigma, that of the run where it is part of it.
    std::vector<float> table(training_sigmas.const_data_ptr<float>(),
                             training_sigmas.const_data_ptr<float>() + training_count);
    for (int64_t i = 0; i < timesteps_.size(); ++i) {
      const double t = timesteps_[i];
      if (std::nearbyint(t) == t && t >= 0 && t < static_cast<double>(training_count))
        table[static_cast<std::size_t>(t)] = sigma(position(t));
    }
    const Tensor indices = per_sample_timesteps(timesteps, samples, training_count);
    const Tensor levels = at::tensor(table, at::kFloat).to(samples.device(), dtype, /*non_blocking=*/true);
    return per_sample(levels, indices, samples.dim());
  }
  std::vector<float> found;
  if (places) {
    for (const int64_t place : *places) found.push_back(sigma(place));
  } else {
    for (const double t : timesteps_.values_of(timesteps)) {
      const int64_t place = position(t);
      if (place >= 0) {
        found.push_back(sigma(place));
        continue;
      }
      require<TensorError>(std::nearbyint(t) == t && t >= 0 && t < static_cast<double>(training_count),
                           "{}: timestep {} is none of timesteps()", where, t);
      found.push_back(training_sigmas.const_data_ptr<float>()[static_cast<int64_t>(t)]);
    }
  }
  const Tensor indices =
      at::arange(static_cast<int64_t>(found.size()), at::TensorOptions(samples.device()).dtype(at::kLong));
  const Tensor levels = at::tensor(found, at::kFloat).to(samples.device(), dtype, /*non_blocking=*/true);
  return per_sample(levels, indices, samples.dim());
}

Tensor training_sigma_tensor(const Tensor& alphas_cumprod) {
  return ((1 - alphas_cumprod) / alphas_cumprod).sqrt();
}

std::vector<double> training_sigmas(const Tensor& alphas_cumprod) {
  const Tensor sigmas = training_sigma_tensor(alphas_cumprod).contiguous();
  return {sigmas.const_data_ptr<float>(), sigmas.const_data_ptr<float>() + sigmas.numel()};
}

NoiseSchedule finite_noise_schedule(const BetaOptions& options) {
  NoiseSchedule schedule(options);
  if (options.rescale_betas_zero_snr) {
    const Tensor alphas_cumprod = schedule.alphas_cumprod().clone();
    alphas_cumprod[-1].fill_(std::ldexp(1.0, -24));
    schedule = NoiseSchedule(schedule.betas(), alphas_cumprod);
  }
  require<ConfigError>(
      (schedule.alphas_cumprod() > 0).all().item<bool>(),
      "these betas leave no signal (abar is 0), so sigma = sqrt((1 - abar) / abar) is infinite");
  return schedule;
}

float torch_log(float x) { return at::scalar_tensor(x, at::kFloat).log().const_data_ptr<float>()[0]; }
float torch_exp(float x) { return at::scalar_tensor(x, at::kFloat).exp().const_data_ptr<float>()[0]; }

std::vector<double> linspace(double start, double stop, int64_t count) {
  std::vector<double> values(static_cast<std::size_t>(std::max<int64_t>(count, 0)));
  const double step = count > 1 ? (stop - start) / static_cast<double>(count - 1) : 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i) * step + start;
  if (count > 1) values.back() = stop;
  return values;
}

std::vector<double> interpolate(const std::vector<double>& positions, const std::vector<double>& values) {
  std::vector<double> result;
  result.reserve(positions.size());
  const auto last = static_cast<double>(values.size() - 1);
  for (const double position : positions) {
    if (!(position > 0)) {
      result.push_back(values.front());
    } else if (position >= last) {
      result.push_back(values.back());
    } else {
      const auto low = static_cast<std::size_t>(position);
      const double slope = values[low + 1] - values[low];
      result.push_back(slope * (position - static_cast<double>(low)) + values[low]);
    }
  }
  return result;
}

std::vector<double> sigmas_to_timesteps(const std::vector<double>& sigmas,
                                        const std::vector<double>& training) {
  // Python's table of logarithms is float32.
  std::vector<float> log_sigmas;
  for (const double sigma : training) log_sigmas.push_back(std::log(static_cast<float>(sigma)));
  std::vector<double> timesteps;
  for (const double sigma : sigmas) {
    const double log_sigma = std::log(std::max(sigma, 1e-10));
    std::size_t low = 0;
    for (std::size_t i = 0; i < log_sigmas.size(); ++i)
      if (log_sigma >= log_sigmas[i]) low = i;
    if (log_sigmas.size() < 2) {
      timesteps.push_back(0);
      continue;
    }
    low = std::min(low, log_sigmas.size() - 2);
    const double weight = std::clamp(
        (log_sigmas[low] - log_sigma) / static_cast<double>(log_sigmas[low] - log_sigmas[low + 1]), 0.0, 1.0);
    timesteps.push_back((1 - weight) * static_cast<double>(low) + weight * static_cast<double>(low + 1));
  }
  return timesteps;
}

std::vector<double> karras_sigmas(double sigma_min, double sigma_max, int64_t count, double rho) {
  std::vector<double> sigmas = linspace(0, 1, count);
  const double low = std::pow(sigma_min, 1 / rho);
  const double high = std::pow(sigma_max, 1 / rho);
  for (double& sigma : sigmas) sigma = std::pow(high + sigma * (low - high), rho);
  return sigmas;
}

std::vector<double> exponential_sigmas(double sigma_min, double sigma_max, int64_t count) {
  std::vector<double> sigmas = linspace(std::log(sigma_max), std::log(sigma_min), count);
  for (double& sigma : sigmas) sigma = std::exp(sigma);
  return sigmas;
}

namespace {

/// The regularized incomplete beta function by its continued fraction (Abramowitz and Stegun 26.5.8,
/// evaluated by Lentz's method); converges fast for x < (a + 1) / (a + b + 2).
double incomplete_beta(double x, double a, double b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incomplete_beta(1 - x, b, a);
  const double front =
      std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x)) /
      a;
  constexpr double kTiny = 1e-300;
  double c = 1;
  double d = 1 / std::max(1 - (a + b) * x / (a + 1), kTiny);
  double fraction = d;
  for (int m = 1; m < 500; ++m) {
    double before = fraction;
    for (const double term : {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                              -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))}) {
      d = 1 / (1 + term * d);
      c = 1 + term / c;
      fraction *= c * d;
    }
    if (std::abs(fraction - before) < 1e-16 * std::abs(fraction)) break;
  }
  return front * fraction;
}

}  // namespace

double beta_quantile(double p, double a, double b) {
  if (p <= 0) return 0;
  if (p >= 1) return 1;
  double low = 0;
  double high = 1;
  // Bisection: slow, and exact to the last bits that matter; a schedule has at most a few thousand of them.
  for (int i = 0; i < 200 && high - low > 0; ++i) {
    const double middle = 0.5 * (low + high);
    if (middle == low || middle == high) break;
    (incomplete_beta(middle, a, b) < p ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

std::vector<double> beta_sigmas(double sigma_min, double sigma_max, int64_t count) {
  std::vector<double> sigmas = linspace(0, 1, count);
  for (double& sigma : sigmas)
    sigma = sigma_min + beta_quantile(1 - sigma, 0.6, 0.6) * (sigma_max - sigma_min);
  return sigmas;
}

double shifted_sigma(double sigma, double shift) { return shift * sigma / (1 + (shift - 1) * sigma); }

std::vector<double> spread_sigmas(SigmaSpread spread, const std::vector<double>& range, int64_t count,
                                  std::optional<double> sigma_min, std::optional<double> sigma_max) {
  const double low = sigma_min.value_or(range.back());
  const double high = sigma_max.value_or(range.front());
  switch (spread) {
    case SigmaSpread::kKarras:
      return karras_sigmas(low, high, count);
    case SigmaSpread::kExponential:
      return exponential_sigmas(low, high, count);
    case SigmaSpread::kBeta:
      return beta_sigmas(low, high, count);
    case SigmaSpread::kPlain:
      break;
  }
  return range;
}

void warn_where_leading_stands_still(int64_t stride, int64_t num_inference_steps, int64_t steps_offset) {
  if (stride == 0)
    warn_once(
        fmt::format("timestep_spacing \"leading\" puts all {} steps at timestep {}, as there are too few "
                    "training timesteps; "
                    "take fewer steps or another spacing",
                    num_inference_steps, steps_offset));
}

std::vector<double> solver_timesteps(TimestepSpacing spacing, int64_t num_train_timesteps,
                                     int64_t last_timestep, int64_t num_inference_steps,
                                     int64_t steps_offset) {
  const auto n = static_cast<std::size_t>(num_inference_steps);
  std::vector<double> timesteps(n);
  switch (spacing) {
    case TimestepSpacing::kLinspace: {
      const auto ascending = linspace(0, static_cast<double>(last_timestep - 1), num_inference_steps + 1);
      for (std::size_t i = 0; i < n; ++i) timesteps[i] = std::nearbyint(ascending[n - i]);
      break;
    }
    case TimestepSpacing::kLeading: {
      const int64_t ratio = last_timestep / (num_inference_steps + 1);
      warn_where_leading_stands_still(ratio, num_inference_steps, steps_offset);
      for (std::size_t i = 0; i < n; ++i)
        timesteps[i] = static_cast<double>(static_cast<int64_t>(n - i) * ratio + steps_offset);
      break;
    }
    case TimestepSpacing::kTrailing: {
      // numpy.arange(last, 0, -T / n), which lambda_min_clipped can make shorter than n; see
      // spaced_timesteps.
      const double ratio =
          static_cast<double>(num_train_timesteps) / static_cast<double>(num_inference_steps);
      const auto last = static_cast<double>(last_timestep);
      const double delta = (last - ratio) - last;
      timesteps.clear();
      for (std::size_t i = 0; i < n; ++i) {
        const double t = std::nearbyint(last + static_cast<double>(i) * delta) - 1;
        if (t < 0) break;
        timesteps.push_back(t);
      }
      break;
    }
  }
  return timesteps;
}

float NoiseLevel::lambda() const { return std::log(alpha) - std::log(sigma); }

NoiseLevel noise_level(float sigma, bool flow) {
  if (flow) return {1 - sigma, sigma};
  const float alpha = 1 / std::sqrt(sigma * sigma + 1);
  return {alpha, sigma * alpha};
}

Tensor data_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                       const NoiseLevel& level) {
  switch (type) {
    case PredictionType::kEpsilon:
      return plus_scaled(sample, -level.sigma, model_output).div_(level.alpha);
    case PredictionType::kVPrediction:
      return weighted_sum(level.alpha, sample, -level.sigma, model_output);
    case PredictionType::kFlowPrediction:
      return plus_scaled(sample, -level.sigma, model_output);
    default:
      return model_output;
  }
}

Tensor noise_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                        const NoiseLevel& level) {
  switch (type) {
    case PredictionType::kSample:
      return plus_scaled(sample, -level.alpha, model_output).div_(level.sigma);
    case PredictionType::kVPrediction:
      return weighted_sum(level.alpha, model_output, level.sigma, sample);
    default:
      return model_output;
  }
}

Tensor karras_data_prediction(PredictionType type, const Tensor& model_output, const Tensor& sample,
                              float sigma) {
  switch (type) {
    case PredictionType::kEpsilon:
      return plus_scaled(sample, -sigma, model_output);
    case PredictionType::kVPrediction: {
      const float squared = sigma * sigma + 1;
      return weighted_sum(-sigma / std::sqrt(squared), model_output, 1.0 / squared, sample);
    }
    default:
      return model_output;
  }
}

Tensor karras_model_input(const Tensor& sample, float sigma) { return sample / std::sqrt(sigma * sigma + 1); }

KarrasSchedule karras_schedule(TimestepSpacing spacing, int64_t num_train_timesteps,
                               int64_t num_inference_steps, int64_t steps_offset, SigmaSpread spread,
                               const std::vector<double>& training, std::optional<double> sigma_min,
                               std::optional<double> sigma_max, const std::vector<double>& custom_timesteps) {
  KarrasSchedule schedule;
  schedule.timesteps = custom_timesteps.empty()
                           ? spaced_timesteps(spacing, num_train_timesteps, num_inference_steps, steps_offset,
                                              /*rounded=*/false)
                           : custom_timesteps;
  for (double& t : schedule.timesteps) t = static_cast<float>(t);
  schedule.sigmas = interpolate(schedule.timesteps, training);
  if (spread != SigmaSpread::kPlain) {
    schedule.sigmas = spread_sigmas(spread, schedule.sigmas, num_inference_steps, sigma_min, sigma_max);
    schedule.timesteps = sigmas_to_timesteps(schedule.sigmas, training);
  }
  return schedule;
}

std::vector<double> doubled(const std::vector<double>& values, bool last_too) {
  std::vector<double> result;
  for (std::size_t i = 0; i < values.size(); ++i) {
    result.push_back(values[i]);
    if (i > 0 && (last_too || i + 1 < values.size())) result.push_back(values[i]);
  }
  return result;
}

std::vector<double> doubled_and_closed(const std::vector<double>& values) {
  std::vector<double> result = doubled(values, /*last_too=*/true);
  result.push_back(values.back());
  return result;
}

SigmaRun training_run(const NoiseSchedule& schedule, at::ScalarType timestep_dtype, bool continuous) {
  std::vector<double> sigmas = training_sigmas(schedule.alphas_cumprod());
  std::reverse(sigmas.begin(), sigmas.end());
  std::vector<double> timesteps = training_timesteps(schedule.size());
  if (continuous)
    std::transform(sigmas.begin(), sigmas.end(), timesteps.begin(),
                   [](double sigma) { return 0.25f * std::log(static_cast<float>(sigma)); });
  sigmas.push_back(0);
  return SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), timestep_dtype));
}

Tensor karras_add_noise(const SigmaRun& run, const NoiseSchedule& schedule, const Tensor& original_samples,
                        const Tensor& noise, const Tensor& timesteps, std::string_view who) {
  require_noisable(original_samples, noise);
  const Tensor training = training_sigma_tensor(schedule.alphas_cumprod());
  return (noise * run.per_sample_sigmas(timesteps, original_samples, training, who)).add_(original_samples);
}

Tensor solver_add_noise(const SigmaRun& run, const NoiseSchedule& schedule, bool flow,
                        const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps,
                        std::string_view who) {
  require_noisable(original_samples, noise);
  // The training timesteps of a flow are its own, t = 1000 sigma.
  const Tensor training = flow
                              ? at::arange(schedule.size(), at::kFloat) / static_cast<double>(schedule.size())
                              : training_sigma_tensor(schedule.alphas_cumprod());
  const Tensor sigma = run.per_sample_sigmas(timesteps, original_samples, training, who);
  if (flow) return (1 - sigma) * original_samples + sigma * noise;
  const Tensor alpha = 1 / (sigma.pow(2) + 1).sqrt();
  return alpha * original_samples + sigma * alpha * noise;
}

float churned_sigma(const StepOptions& options, float sigma, int64_t num_steps) {
  const bool within = options.s_tmin <= sigma && sigma <= options.s_tmax;
  const double gamma =
      within ? std::min(options.s_churn / static_cast<double>(num_steps), std::sqrt(2.0) - 1) : 0.0;
  return sigma * static_cast<float>(gamma + 1);
}

Tensor churned_sample(const Tensor& sample, const StepOptions& options, const Tensor& model_output,
                      float sigma, float sigma_hat) {
  Tensor x = sample.to(at::kFloat);
  if (sigma_hat <= sigma) return x;
  const double scale = options.s_noise * std::sqrt(sigma_hat * sigma_hat - sigma * sigma);
  return plus_scaled(x, scale, step_noise(options, model_output));
}

AncestralLevels ancestral_levels(float sigma, float sigma_next) {
  const float from = sigma * sigma;
  const float to = sigma_next * sigma_next;
  if (to > from) return {0, sigma_next};  // upwards, after the level that stands for zero terminal SNR
  const float up = std::sqrt(to * (from - to) / from);
  const float down = to - up * up;
  // It is to^2 / from, which the difference of rounded numbers can miss where `from` is much larger.
  return {up, down >= 0 ? std::sqrt(down) : to / sigma};
}

float log_midpoint(double a, double b) {
  const float log_a = std::log(static_cast<float>(a));
  const float log_b = std::log(static_cast<float>(b));
  return std::exp(log_b - (log_b - log_a) * 0.5f);
}

at::ScalarType kdpm2_timestep_dtype(SigmaSpread spread) {
  return spread == SigmaSpread::kPlain ? at::kFloat : at::kDouble;
}

double dynamically_shifted_sigma(double sigma, double mu, TimeShiftType type) {
  const double weight = type == TimeShiftType::kExponential ? std::exp(mu) : mu;
  return weight / (weight + (1 / sigma - 1));
}

void stretch_to_terminal(std::vector<double>& sigmas, double terminal) {
  require<ConfigError>(terminal < 1, "shift_terminal is {}, expected less than 1", terminal);
  if (sigmas.back() == 1) return;  // a run of one step is its start, pure noise, which stays
  const double scale = (1 - sigmas.back()) / (1 - terminal);
  for (double& sigma : sigmas) sigma = 1 - (1 - sigma) / scale;
}

SigmaRun flow_training_run(int64_t num_train_timesteps, double shift) {
  const auto total = static_cast<float>(num_train_timesteps);
  std::vector<double> sigmas;
  std::vector<double> timesteps;
  for (int64_t t = num_train_timesteps; t >= 1; --t) {
    float sigma = static_cast<float>(t) / total;
    sigma = static_cast<float>(shift) * sigma / (1 + static_cast<float>(shift - 1) * sigma);
    sigmas.push_back(sigma);
    timesteps.push_back(sigma * total);
  }
  return SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), at::kFloat));
}

void check_flow_config(std::string_view who, int64_t num_train_timesteps, double shift) {
  require<ConfigError>(num_train_timesteps >= 1 && num_train_timesteps <= 10'000'000,
                       "{}: num_train_timesteps is {}, expected 1 to 10000000", who, num_train_timesteps);
  require<ConfigError>(shift > 0, "{}: shift is {}, expected a positive number", who, shift);
}

}  // namespace diffusers
