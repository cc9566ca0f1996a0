#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/beta_schedule.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
namespace {

constexpr int64_t kMaxTrainTimesteps = 10'000'000;

double alpha_bar(double t, AlphaTransformType type) {
  switch (type) {
    case AlphaTransformType::kCosine:
      return std::pow(std::cos((t + 0.008) / 1.008 * std::numbers::pi / 2), 2);
    case AlphaTransformType::kExp:
      return std::exp(t * -12.0);
    case AlphaTransformType::kLaplace: {
      const double lambda = -0.5 * std::copysign(1.0, 0.5 - t) * std::log(1 - 2 * std::fabs(0.5 - t) + 1e-6);
      const double snr = std::exp(lambda);
      return std::sqrt(snr / (1 + snr));
    }
  }
  return 0;
}

at::Tensor unchecked_betas(const BetaOptions& options) {
  const int64_t count = options.num_train_timesteps;
  const auto linspace = [count](double from, double to) { return at::linspace(from, to, count, at::kFloat); };
  if (!options.trained_betas.empty()) return at::tensor(options.trained_betas, at::kFloat);
  switch (options.beta_schedule) {
    case BetaSchedule::kLinear:
      return linspace(options.beta_start, options.beta_end);
    case BetaSchedule::kScaledLinear:
      return linspace(std::pow(options.beta_start, 0.5), std::pow(options.beta_end, 0.5)).pow(2);
    case BetaSchedule::kSquaredcosCapV2:
      return betas_for_alpha_bar(count);
    case BetaSchedule::kSigmoid:
      return linspace(-6, 6).sigmoid() * (options.beta_end - options.beta_start) + options.beta_start;
    case BetaSchedule::kLaplace:
      return betas_for_alpha_bar(count, 0.999, AlphaTransformType::kLaplace);
    case BetaSchedule::kExp:
      return betas_for_alpha_bar(count, 0.999, AlphaTransformType::kExp);
  }
  fail<ConfigError>("beta_schedule holds an unknown enumerator");
}

}  // namespace

at::Tensor betas_for_alpha_bar(int64_t num_diffusion_timesteps, double max_beta,
                               AlphaTransformType alpha_transform_type) {
  require<ConfigError>(num_diffusion_timesteps >= 1 && num_diffusion_timesteps <= kMaxTrainTimesteps,
                       "num_diffusion_timesteps is {}, expected 1 to {}", num_diffusion_timesteps,
                       kMaxTrainTimesteps);
  const auto count = static_cast<double>(num_diffusion_timesteps);
  std::vector<double> betas;
  betas.reserve(static_cast<std::size_t>(num_diffusion_timesteps));
  for (int64_t i = 0; i < num_diffusion_timesteps; ++i) {
    const double t1 = static_cast<double>(i) / count;
    const double t2 = static_cast<double>(i + 1) / count;
    betas.push_back(
        std::min(1 - alpha_bar(t2, alpha_transform_type) / alpha_bar(t1, alpha_transform_type), max_beta));
  }
  return at::tensor(betas, at::kFloat);
}

at::Tensor rescale_zero_terminal_snr(const at::Tensor& betas) {
  require<TensorError>(betas.defined() && betas.dim() == 1 && betas.size(0) >= 2 && betas.is_floating_point(),
                       "rescale_zero_terminal_snr: betas are {}, expected a floating [T] with T >= 2",
                       describe(betas));
  const at::Tensor alphas_bar_sqrt = (1.0 - betas).cumprod(0).sqrt();
  const at::Tensor first = alphas_bar_sqrt[0];
  const at::Tensor last = alphas_bar_sqrt[-1];
  // Shift and scale: the last value becomes zero, the first one is kept.
  const at::Tensor rescaled = (alphas_bar_sqrt - last) * (first / (first - last));
  const at::Tensor alphas_bar = rescaled.pow(2);
  const at::Tensor alphas = alphas_bar.slice(0, 1) / alphas_bar.slice(0, 0, -1);
  return 1 - at::cat({alphas_bar.slice(0, 0, 1), alphas});
}

at::Tensor make_betas(const BetaOptions& options) {
  require<ConfigError>(options.num_train_timesteps >= 1 && options.num_train_timesteps <= kMaxTrainTimesteps,
                       "num_train_timesteps is {}, expected 1 to {}", options.num_train_timesteps,
                       kMaxTrainTimesteps);
  const bool trained = !options.trained_betas.empty();
  if (trained) {
    require<ConfigError>(static_cast<int64_t>(options.trained_betas.size()) >= options.num_train_timesteps,
                         "trained_betas holds {} values, expected num_train_timesteps = {}",
                         options.trained_betas.size(), options.num_train_timesteps);
  } else {
    for (const auto& [key, value] :
         {std::pair{"beta_start", options.beta_start}, {"beta_end", options.beta_end}})
      require<ConfigError>(value >= 0 && value <= 1, "{} is {}, expected a number from 0 to 1", key, value);
  }
  at::Tensor betas = unchecked_betas(options);
  if (trained)
    require<ConfigError>((betas >= 0).logical_and(betas <= 1).all().item<bool>(),
                         "trained_betas must be numbers from 0 to 1, found {} to {}",
                         betas.min().item<float>(), betas.max().item<float>());
  if (options.rescale_betas_zero_snr) {
    require<ConfigError>(betas.size(0) >= 2, "rescale_betas_zero_snr needs at least two training timesteps");
    betas = rescale_zero_terminal_snr(betas);
    require<ConfigError>(betas.isfinite().all().item<bool>(),
                         "rescale_betas_zero_snr: these betas hold no noise, so they cannot be rescaled");
  }
  return betas;
}

}  // namespace diffusers
