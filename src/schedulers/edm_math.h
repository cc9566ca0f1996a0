#pragma once

// The noise levels and the preconditioning of EDM (Karras et al. 2022, arXiv 2206.00364, table 1).

#include <cmath>
#include <vector>

#include <ATen/ATen.h>

#include "schedulers/sigma_math.h"

namespace diffusers {
inline namespace internal {

template <class Config>
void check_edm_config(std::string_view who, const Config& config) {
  check_prediction_type(who, config.prediction_type,
                        {PredictionType::kEpsilon, PredictionType::kVPrediction});
  require<ConfigError>(
      config.sigma_min > 0 && config.sigma_min < config.sigma_max && std::isfinite(config.sigma_max),
      "{}: sigma_min is {} and sigma_max {}, expected 0 < sigma_min < sigma_max", who, config.sigma_min,
      config.sigma_max);
  require<ConfigError>(config.sigma_data > 0, "{}: sigma_data is {}, expected a positive number", who,
                       config.sigma_data);
  require<ConfigError>(config.rho > 0, "{}: rho is {}, expected a positive number", who, config.rho);
  require<ConfigError>(config.num_train_timesteps >= 1 && config.num_train_timesteps <= 10'000'000,
                       "{}: num_train_timesteps is {}, expected 1 to 10000000", who,
                       config.num_train_timesteps);
}

/// Returns the noise levels at positions 0 (sigma_max) to 1 (sigma_min), float32.
/// @param ramp the positions; the arithmetic has their dtype
template <class Config>
Tensor edm_sigmas(const Config& config, const Tensor& ramp) {
  if (config.sigma_schedule == SigmaScheduleType::kExponential)
    return at::linspace(std::log(config.sigma_min), std::log(config.sigma_max), ramp.size(0), at::kFloat)
        .exp()
        .flip(0);
  const double low = std::pow(config.sigma_min, 1 / config.rho);
  const double high = std::pow(config.sigma_max, 1 / config.rho);
  return (high + ramp * (low - high)).pow(config.rho).to(at::kFloat);
}

/// Makes the run over these levels and then `last`. Its timesteps are c_noise = log(sigma) / 4.
inline SigmaRun edm_run(const Tensor& sigmas, double last, at::Device device) {
  const auto values = [](const Tensor& tensor) {
    const Tensor floats = tensor.contiguous();
    return std::vector<double>(floats.const_data_ptr<float>(),
                               floats.const_data_ptr<float>() + floats.numel());
  };
  std::vector<double> levels = values(sigmas);
  levels.push_back(last);
  return SigmaRun(levels, TimestepSchedule(values(sigmas.log() * 0.25), at::kFloat, device));
}

inline float edm_input_scale(float sigma, double sigma_data) {
  return 1 / torch_sqrt(sigma * sigma + static_cast<float>(sigma_data * sigma_data));
}

/// Computes D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (eq. 7).
template <class Config>
Tensor edm_denoised(const Config& config, const Tensor& model_output, const Tensor& sample, float sigma) {
  const auto data = static_cast<float>(config.sigma_data);
  const auto squared = static_cast<float>(config.sigma_data * config.sigma_data);
  const float c_skip = 1 / (sigma * sigma + squared) * squared;
  const float c_out = sigma * data / torch_sqrt(sigma * sigma + squared);
  const float sign = config.prediction_type == PredictionType::kEpsilon ? 1.0f : -1.0f;
  return weighted_sum(c_skip, sample, sign * c_out, model_output);
}

}  // namespace internal
}  // namespace diffusers
