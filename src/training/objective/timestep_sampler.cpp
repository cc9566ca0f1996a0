#include <cmath>
#include <vector>

#include <diffusers/training/objective.h>
#include <diffusers/training/timestep_sampler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/objective/option_fields.h"

namespace diffusers {
namespace {

// Values of Nichol and Dhariwal: the number of losses kept for each t, and the share drawn uniformly.
constexpr int64_t kHistory = 10;
constexpr double kUniformShare = 0.001;

/// The weights are float32, as in Python.
Tensor weights_with_bias(int64_t steps, const TimestepSamplingOptions& options) {
  Tensor weights = at::ones({steps}, at::kFloat);
  const auto portion = static_cast<int64_t>(options.bias_portion * static_cast<double>(steps));
  if (options.bias == TimestepBias::kEarlier) weights.slice(0, 0, portion).mul_(options.bias_multiplier);
  if (options.bias == TimestepBias::kLater)
    weights.slice(0, portion == 0 ? 0 : steps - portion).mul_(options.bias_multiplier);
  if (options.bias == TimestepBias::kRange)
    weights.slice(0, options.bias_begin, options.bias_end).mul_(options.bias_multiplier);
  return weights / weights.sum();
}

void validate(int64_t steps, const TimestepSamplingOptions& options) {
  require<ConfigError>(steps > 0, "num_train_timesteps is {}, expected 1 or more", steps);
  require_options_with_effect(options, kSamplingOptionEffects);
  require<ConfigError>(std::isfinite(options.logit_mean), "logit_mean is {}, expected a finite number",
                       options.logit_mean);
  require<ConfigError>(std::isfinite(options.logit_std) && options.logit_std > 0,
                       "logit_std is {}, expected a finite number above 0", options.logit_std);
  // Outside this range the density of SD3's `mode` is negative somewhere.
  require<ConfigError>(options.mode_scale >= -1 && options.mode_scale <= 2 / (M_PI - 2),
                       "mode_scale is {}, expected -1 to 2 / (pi - 2)", options.mode_scale);
  const bool is_uniform = options.strategy == TimestepSampling::kUniform;
  if (options.bias != TimestepBias::kNone) {
    require<ConfigError>(is_uniform && !options.continuous,
                         "timestep_bias_strategy is \"{}\", which needs discrete timesteps drawn uniformly, "
                         "but timestep_sampling is \"{}\"{}",
                         options.bias.name(), options.strategy.name(),
                         options.continuous ? " and continuous" : "");
    require<ConfigError>(std::isfinite(options.bias_multiplier) && options.bias_multiplier > 0,
                         "timestep_bias_multiplier is {}, expected a finite number above 0",
                         options.bias_multiplier);
  }
  if (options.bias == TimestepBias::kRange)
    require<ConfigError>(
        options.bias_begin >= 0 && options.bias_begin < options.bias_end && options.bias_end <= steps,
        "timestep_bias_begin is {} and timestep_bias_end is {}, expected a range within 0 to {}",
        options.bias_begin, options.bias_end, steps);
  require<ConfigError>(options.bias_portion >= 0 && options.bias_portion <= 1,
                       "timestep_bias_portion is {}, expected 0 to 1", options.bias_portion);
  require<ConfigError>(!options.continuous || (options.strategy != TimestepSampling::kAntithetic &&
                                               options.strategy != TimestepSampling::kLossSecondMoment),
                       "timestep_sampling is \"{}\", which draws discrete timesteps, but "
                       "continuous_timesteps is true",
                       options.strategy.name());
}

}  // namespace

TimestepSampler::TimestepSampler(int64_t num_train_timesteps, const TimestepSamplingOptions& options)
    : num_train_timesteps_(num_train_timesteps), options_(options) {
  validate(num_train_timesteps_, options_);
  if (options_.bias != TimestepBias::kNone) bias_weights_ = weights_with_bias(num_train_timesteps_, options_);
  if (is_adaptive()) {
    history_ = at::zeros({num_train_timesteps_, kHistory}, at::kFloat);
    seen_ = at::zeros({num_train_timesteps_}, at::kLong);
  }
}

/// Draws u in [0, 1) for the strategies that map u to timesteps.
Tensor TimestepSampler::uniform_numbers(int64_t count, const std::optional<Generator>& generator,
                                        at::Device device) const {
  const at::TensorOptions floats = at::TensorOptions().dtype(at::kFloat).device(device);
  switch (options_.strategy.value()) {
    case TimestepSampling::kStratified: {
      const Tensor parts = at::randperm(count, generator, floats.dtype(at::kLong));
      return (parts + at::rand({count}, generator, floats)) / static_cast<double>(count);
    }
    case TimestepSampling::kLogitNormal:
      return compute_density_for_timestep_sampling("logit_normal", count,
                                                   {.logit_mean = options_.logit_mean,
                                                    .logit_std = options_.logit_std,
                                                    .device = device,
                                                    .generator = generator});
    case TimestepSampling::kMode:
      return compute_density_for_timestep_sampling(
          "mode", count, {.mode_scale = options_.mode_scale, .device = device, .generator = generator});
    case TimestepSampling::kCubic:
      return 1 - at::rand({count}, generator, floats).pow(3);
    default:
      return at::rand({count}, generator, floats);
  }
}

TimestepSampler::Draw TimestepSampler::sample(int64_t count, const std::optional<Generator>& generator,
                                              at::Device device) {
  const int64_t steps = num_train_timesteps_;
  const at::TensorOptions longs = at::TensorOptions().dtype(at::kLong).device(device);
  if (is_adaptive()) {
    history_ = history_.to(device);
    seen_ = seen_.to(device);
    const Tensor p = probabilities();
    const Tensor timesteps = at::multinomial(p, count, /*replacement=*/true, generator);
    return {timesteps, (1 / (static_cast<double>(steps) * p.index({timesteps}))).to(at::kFloat)};
  }
  if (bias_weights_.defined()) {
    bias_weights_ = bias_weights_.to(device);
    return {at::multinomial(bias_weights_, count, /*replacement=*/true, generator), {}};
  }
  if (options_.strategy == TimestepSampling::kUniform && !options_.continuous)
    return {at::randint(0, steps, {count}, generator, longs), {}};
  if (options_.strategy == TimestepSampling::kAntithetic) {
    const Tensor first = at::randint(0, steps, {(count + 1) / 2}, generator, longs);
    return {at::cat({first, steps - 1 - first.narrow(0, 0, count / 2)}), {}};
  }
  const Tensor scaled = uniform_numbers(count, generator, device) * static_cast<double>(steps);
  if (options_.continuous)
    // Rounding may reach T itself.
    return {scaled.clamp_max(std::nextafter(static_cast<float>(steps), 0.0F)), {}};
  return {scaled.floor().to(at::kLong).clamp(0, steps - 1), {}};
}

Tensor TimestepSampler::probabilities() const {
  const auto steps = static_cast<double>(num_train_timesteps_);
  if (bias_weights_.defined()) return bias_weights_.to(at::kDouble);
  require<ConfigError>(is_adaptive() || options_.strategy == TimestepSampling::kUniform ||
                           options_.strategy == TimestepSampling::kStratified ||
                           options_.strategy == TimestepSampling::kAntithetic,
                       "timestep_sampling is \"{}\", whose probabilities have no table",
                       options_.strategy.name());
  Tensor uniform = at::full({num_train_timesteps_}, 1 / steps, at::kDouble);
  if (!is_adaptive()) return uniform;
  // The distribution is uniform until each timestep has ten losses. The device decides, without a host read.
  const Tensor is_ready = (seen_ >= kHistory).all();
  const Tensor root_mean_square = history_.to(at::kDouble).square().mean(1).sqrt();
  const Tensor learned = root_mean_square / root_mean_square.sum().clamp_min(1e-30) * (1 - kUniformShare) +
                         kUniformShare / steps;
  return at::where(is_ready, learned, uniform.to(learned.device()));
}

void TimestepSampler::update(const Tensor& drawn, const Tensor& losses) {
  if (!is_adaptive()) return;
  const at::NoGradGuard no_grad;
  require<TensorError>(drawn.sizes() == losses.sizes() && drawn.dim() == 1,
                       "TimestepSampler::update: timesteps are {}, losses are {}; expected [B] both",
                       describe(drawn), describe(losses));
  const Tensor timesteps = drawn.to(losses.device(), at::kLong);
  history_ = history_.to(losses.device());
  seen_ = seen_.to(losses.device());
  // Each loss replaces the oldest loss of its t. Several losses of one t in a batch take consecutive slots.
  const Tensor same = timesteps.unsqueeze(1) == timesteps.unsqueeze(0);
  const Tensor turn = same.tril(-1).sum(1);
  const Tensor slot = (seen_.index({timesteps}) + turn).remainder(kHistory);
  // A non-finite loss would affect the probabilities for ten draws.
  const Tensor known = losses.detach().to(at::kFloat);
  const Tensor finite = at::where(known.isfinite(), known, history_.index({timesteps, slot}));
  history_.index_put_({timesteps, slot}, finite);
  seen_.index_add_(0, timesteps, at::ones_like(timesteps));
}

TensorMap TimestepSampler::state_dict() const {
  if (!is_adaptive()) return {};
  return {{"loss_history", history_}, {"losses_seen", seen_}};
}

void TimestepSampler::load_state_dict(const TensorMap& state) {
  const TensorMap mine = state_dict();
  for (const auto& entry : state)
    require<TensorError>(
        mine.contains(entry.first),
        "TimestepSampler: the state has \"{}\", which timestep_sampling \"{}\" does not keep", entry.first,
        options_.strategy.name());
  for (const auto& [name, tensor] : mine) {
    require<TensorError>(state.contains(name), "TimestepSampler: the state lacks \"{}\"", name);
    const Tensor& saved = state.at(name);
    require<TensorError>(
        saved.defined() && saved.sizes() == tensor.sizes() && saved.scalar_type() == tensor.scalar_type(),
        "TimestepSampler: \"{}\" is {}, expected {}", name, describe(saved), describe(tensor));
    tensor.copy_(saved);
  }
}

}  // namespace diffusers
