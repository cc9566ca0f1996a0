#include <ATen/ATen.h>

#include "core/require.h"
#include "training/objective/per_sample.h"
#include "training/objective/scheduled_process.h"
#include "training/objective/scheduler_facts.h"

namespace diffusers {
inline namespace internal {
namespace {

/// (1 - sigma)^2 and sigma^2 of each time.
SignalAndNoise flow_levels(const Tensor& t, double steps) {
  const Tensor sigma = t.to(at::kDouble) / steps;
  // At a sigma of exactly 0 the SNR would be infinite and its weight 0 / 0.
  constexpr double kLeastNoise = 1e-20;
  return {(1 - sigma).square(), sigma.square().clamp_min(kLeastNoise)};
}

}  // namespace

FlowProcess::FlowProcess(const Scheduler& scheduler, const DiffusionLossOptions& options)
    : ScheduledProcess(scheduler, PredictionType::kFlowPrediction),
      options_(options),
      shift_(scheduler.flow_shift().value_or(1.0)) {
  require<ConfigError>(options.original_elbo_weight == 0,
                       "original_elbo_weight is {}, but prediction_type \"flow_prediction\" has no "
                       "variational bound over timesteps",
                       options.original_elbo_weight);
  if (const Tensor times = flow_timesteps(scheduler); times.defined()) times_ = DeviceTable(times);
}

Tensor FlowProcess::noisy(const Tensor& x0, const Tensor& noise, const Tensor& t) const {
  const Tensor sigma = over_samples(t.to(x0.scalar_type()) / steps(), x0);
  return (1 - sigma) * x0 + sigma * noise;
}

Tensor FlowProcess::target(const Tensor& x0, const Tensor& noise, const Tensor&) const { return noise - x0; }

Tensor FlowProcess::weight(const Tensor& t) const {
  if (weighting_of(options_) == LossWeighting::kNone) return {};
  return snr_weights(flow_levels(t, steps()), prediction_type(), options_);
}

TimestepSampler::Draw FlowProcess::draw(TimestepSampler& sampler, int64_t count,
                                        const std::optional<Generator>& generator,
                                        const at::TensorOptions& options) const {
  TimestepSampler::Draw drawn = sampler.sample(count, generator, options.device());
  if (!at::isFloatingType(drawn.timesteps.scalar_type())) {
    drawn.timesteps = times_.on(drawn.timesteps.device(), at::kFloat).index({drawn.timesteps});
    return drawn;
  }
  const Tensor sigma = 1 - drawn.timesteps / steps();
  drawn.timesteps = shift_ * sigma / (1 + (shift_ - 1) * sigma) * steps();
  return drawn;
}

Tensor FlowProcess::times_at(const Tensor& positions, const at::TensorOptions& options) const {
  // The scheduler's timesteps run from noise to data.
  const Tensor index = (positions * steps()).floor().to(at::kLong);
  return times_.host().flip(0).index({index}).to(options.device());
}

void FlowProcess::check_times(const Tensor& t, const char* where) const {
  check_timesteps(t, scheduler().num_train_timesteps(), /*is_continuous=*/true, where);
}

std::optional<ForwardProcess::Shares> FlowProcess::shares() const {
  const Tensor sigma = times_.host().flip(0) / steps();
  return Shares{1 - sigma, sigma};
}

}  // namespace internal
}  // namespace diffusers
