#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/ipndm_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/sigma_math.h"
#include "schedulers/step_math.h"

namespace diffusers {

static void visit_fields(IPNDMSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("trained_betas", config.trained_betas);
}

template class ConfiguredScheduler<IPNDMScheduler, IPNDMSchedulerConfig>;

IPNDMScheduler::IPNDMScheduler(IPNDMSchedulerConfig config) : SigmaScheduler(std::move(config)) {
  require<ConfigError>(config_.num_train_timesteps >= 1 && config_.num_train_timesteps <= 10'000'000,
                       "{}: num_train_timesteps is {}, expected 1 to 10000000", kClassName,
                       config_.num_train_timesteps);
  for (const double beta : config_.trained_betas)
    require<ConfigError>(beta >= 0 && beta <= 1, "{}: trained_betas holds {}, expected numbers from 0 to 1",
                         kClassName, beta);
  // A run with trained betas has one step less than there are betas.
  IPNDMScheduler::set_timesteps(config_.trained_betas.empty()
                                    ? config_.num_train_timesteps
                                    : static_cast<int64_t>(config_.trained_betas.size()) - 1);
}

Tensor IPNDMScheduler::betas() const { return at::tensor(betas_, at::kFloat); }

void IPNDMScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                   const SetTimestepsOptions& options) {
  check_set_timesteps_options(kClassName, options, {});
  const int64_t n = checked_num_inference_steps(kClassName, num_inference_steps);
  Tensor betas;
  if (config_.trained_betas.empty()) {
    betas = (at::linspace(1, 0, n + 1, at::kFloat) * (M_PI / 2)).sin().pow(2);
  } else {
    require<ConfigError>(static_cast<int64_t>(config_.trained_betas.size()) == n + 1,
                         "{}: num_inference_steps is {}, expected {}, one less than there are trained_betas",
                         kClassName, n, config_.trained_betas.size() - 1);
    betas = at::tensor(config_.trained_betas, at::kFloat);
  }
  const Tensor alphas = (1.0 - betas.pow(2)).sqrt();
  const Tensor timesteps = (at::atan2(betas, alphas) / M_PI * 2).slice(0, 0, -1).to(at::kDouble);
  betas_.assign(betas.const_data_ptr<float>(), betas.const_data_ptr<float>() + n + 1);
  alphas_.assign(alphas.const_data_ptr<float>(), alphas.const_data_ptr<float>() + n + 1);
  run_ = SigmaRun(
      {}, TimestepSchedule({timesteps.const_data_ptr<double>(), timesteps.const_data_ptr<double>() + n},
                           at::kFloat, options.device));
  ets_.clear();
}

SchedulerOutput IPNDMScheduler::step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                                     const StepOptions& options) {
  check_step_options(kClassName, options, {});
  check_step_tensors(kClassName, model_output, sample);
  const auto i = static_cast<std::size_t>(run_.enter(timestep, kClassName));
  if (ets_.size() > 3) ets_.erase(ets_.begin());
  ets_.push_back(weighted_sum(betas_[i], sample, alphas_[i], model_output));
  const auto et = [this](std::size_t back) { return ets_[ets_.size() - back]; };
  Tensor slope;  // Adams-Bashforth of the order that the history allows
  switch (ets_.size()) {
    case 1:
      slope = et(1);
      break;
    case 2:
      slope = weighted_sum(3, et(1), -1, et(2)).div_(2);
      break;
    case 3:
      slope = scaled_sum({{23, et(1)}, {-16, et(2)}, {5, et(3)}}).div_(12);
      break;
    default:
      slope = scaled_sum({{55, et(1)}, {-59, et(2)}, {37, et(3)}, {-9, et(4)}}).mul_(1.0 / 24);
      break;
  }
  Tensor pred = plus_scaled(sample, -betas_[i], slope).div_(std::max(alphas_[i], 1e-8f));
  run_.advance();
  return {.prev_sample = add_scaled(scaled_in_place(pred, alphas_[i + 1]), betas_[i + 1], slope)};
}

}  // namespace diffusers
