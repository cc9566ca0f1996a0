#include "schedulers/sigma_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <diffusers/core/logging.h>
#include <diffusers/core/tensor.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/step_math.h"

namespace diffusers {

SigmaRun::SigmaRun(const std::vector<double>& sigmas, TimestepSchedule timesteps, int64_t stages)
    : timesteps_(std::move(timesteps)), stages_(stages) {
  for (const double sigma : sigmas) host_.push_back(static_cast<float>(sigma));
  sigmas_ = DeviceTable(at::tensor(host_, at::kFloat));
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
  // The end of a step and the beginning of the next can be equal timesteps.
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

Tensor internal::training_sigma_tensor(const Tensor& alphas_cumprod) {
  return ((1 - alphas_cumprod) / alphas_cumprod).sqrt();
}

std::vector<double> internal::training_sigmas(const Tensor& alphas_cumprod) {
  const Tensor sigmas = training_sigma_tensor(alphas_cumprod).contiguous();
  return {sigmas.const_data_ptr<float>(), sigmas.const_data_ptr<float>() + sigmas.numel()};
}

NoiseSchedule internal::finite_noise_schedule(const BetaOptions& options) {
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

void internal::warn_where_leading_stands_still(int64_t stride, int64_t num_inference_steps,
                                               int64_t steps_offset) {
  if (stride == 0)
    warn_once(
        fmt::format("timestep_spacing \"leading\" puts all {} steps at timestep {}, as there are too few "
                    "training timesteps; take fewer steps or another spacing",
                    num_inference_steps, steps_offset));
}

std::vector<double> internal::solver_timesteps(TimestepSpacing spacing, int64_t num_train_timesteps,
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
      // numpy.arange(last, 0, -T / n). lambda_min_clipped can make it shorter than n; see spaced_timesteps.
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

Tensor internal::karras_model_input(const Tensor& sample, float sigma) {
  return sample / torch_sqrt(sigma * sigma + 1);
}

KarrasSchedule internal::karras_schedule(TimestepSpacing spacing, int64_t num_train_timesteps,
                                         int64_t num_inference_steps, int64_t steps_offset,
                                         SigmaSpread spread, const std::vector<double>& training,
                                         std::optional<double> sigma_min, std::optional<double> sigma_max,
                                         const std::vector<double>& custom_timesteps) {
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

std::vector<double> internal::doubled(const std::vector<double>& values, bool last_too) {
  std::vector<double> result;
  for (std::size_t i = 0; i < values.size(); ++i) {
    result.push_back(values[i]);
    if (i > 0 && (last_too || i + 1 < values.size())) result.push_back(values[i]);
  }
  return result;
}

std::vector<double> internal::doubled_and_closed(const std::vector<double>& values) {
  std::vector<double> result = doubled(values, /*last_too=*/true);
  result.push_back(values.back());
  return result;
}

SigmaRun internal::training_run(const NoiseSchedule& schedule, at::ScalarType timestep_dtype,
                                bool continuous) {
  std::vector<double> sigmas = training_sigmas(schedule.alphas_cumprod());
  std::reverse(sigmas.begin(), sigmas.end());
  std::vector<double> timesteps = training_timesteps(schedule.size());
  if (continuous)
    std::transform(sigmas.begin(), sigmas.end(), timesteps.begin(),
                   [](double sigma) { return 0.25f * torch_log(static_cast<float>(sigma)); });
  sigmas.push_back(0);
  return SigmaRun(sigmas, TimestepSchedule(std::move(timesteps), timestep_dtype));
}

Tensor internal::karras_add_noise(const SigmaRun& run, const NoiseSchedule& schedule,
                                  const Tensor& original_samples, const Tensor& noise,
                                  const Tensor& timesteps, std::string_view who) {
  require_noisable(original_samples, noise);
  const SigmaRun::TrainingSigmas training{
      schedule.size(), [&schedule] { return training_sigma_tensor(schedule.alphas_cumprod()); }};
  return (noise * run.per_sample_sigmas(timesteps, original_samples, training, who)).add_(original_samples);
}

Tensor internal::solver_add_noise(const SigmaRun& run, const NoiseSchedule& schedule, bool flow,
                                  const Tensor& original_samples, const Tensor& noise,
                                  const Tensor& timesteps, std::string_view who) {
  require_noisable(original_samples, noise);
  // A flow has its own training timesteps, t = 1000 sigma.
  const SigmaRun::TrainingSigmas training{schedule.size(), [&schedule, flow]() -> Tensor {
                                            if (!flow)
                                              return training_sigma_tensor(schedule.alphas_cumprod());
                                            return at::arange(schedule.size(), at::kFloat) /
                                                   static_cast<double>(schedule.size());
                                          }};
  const Tensor sigma = run.per_sample_sigmas(timesteps, original_samples, training, who);
  if (flow) return (1 - sigma) * original_samples + sigma * noise;
  const Tensor alpha = 1 / (sigma.pow(2) + 1).sqrt();
  return alpha * original_samples + sigma * alpha * noise;
}

float internal::churned_sigma(const StepOptions& options, float sigma, int64_t num_steps) {
  const bool within = options.s_tmin <= sigma && sigma <= options.s_tmax;
  const double gamma =
      within ? std::min(options.s_churn / static_cast<double>(num_steps), std::sqrt(2.0) - 1) : 0.0;
  return sigma * static_cast<float>(gamma + 1);
}

Tensor internal::churned_sample(const Tensor& sample, const StepOptions& options, const Tensor& model_output,
                                float sigma, float sigma_hat) {
  Tensor x = sample.to(at::kFloat);
  if (sigma_hat <= sigma) return x;
  const Tensor noise = step_noise(options, model_output);
  return plus_scaled(x, torch_sqrt(sigma_hat * sigma_hat - sigma * sigma),
                     options.s_noise == 1 ? noise : at::mul(noise, options.s_noise));
}

AncestralLevels internal::ancestral_levels(float sigma, float sigma_next) {
  const float from = sigma * sigma;
  const float to = sigma_next * sigma_next;
  if (to > from) return {0, sigma_next};  // towards more noise, after the level of zero terminal SNR
  const float up = torch_sqrt(to * (from - to) / from);
  const float down = to - up * up;
  // The exact value is to^2 / from. The difference of rounded numbers can be wrong if `from` is much larger.
  return {up, down >= 0 ? torch_sqrt(down) : to / sigma};
}

float internal::log_midpoint(double a, double b) {
  if (a == 0 || b == 0) return 0;
  const float log_a = torch_log(static_cast<float>(a));
  const float log_b = torch_log(static_cast<float>(b));
  return torch_exp(log_b - (log_b - log_a) * 0.5f);
}

at::ScalarType internal::kdpm2_timestep_dtype(SigmaSpread spread) {
  return spread == SigmaSpread::kPlain ? at::kFloat : at::kDouble;
}

double internal::dynamically_shifted_sigma(double sigma, double mu, TimeShiftType type) {
  const double weight = type == TimeShiftType::kExponential ? std::exp(mu) : mu;
  return weight / (weight + (1 / sigma - 1));
}

void internal::stretch_to_terminal(std::vector<double>& sigmas, double terminal) {
  require<ConfigError>(terminal < 1, "shift_terminal is {}, expected less than 1", terminal);
  if (sigmas.back() == 1) return;  // a run of one step has only its start, pure noise, which is kept
  const double scale = (1 - sigmas.back()) / (1 - terminal);
  for (double& sigma : sigmas) sigma = 1 - (1 - sigma) / scale;
}

SigmaRun internal::flow_training_run(int64_t num_train_timesteps, double shift) {
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

void internal::check_flow_config(std::string_view who, int64_t num_train_timesteps, double shift) {
  require<ConfigError>(num_train_timesteps >= 1 && num_train_timesteps <= 10'000'000,
                       "{}: num_train_timesteps is {}, expected 1 to 10000000", who, num_train_timesteps);
  require<ConfigError>(shift > 0, "{}: shift is {}, expected a positive number", who, shift);
}

}  // namespace diffusers
