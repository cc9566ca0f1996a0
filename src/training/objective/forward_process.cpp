#include "training/objective/forward_process.h"

#include <string>
#include <string_view>

#include <ATen/ATen.h>

#include "core/per_sample.h"
#include "core/require.h"
#include "schedulers/sigma_math.h"

namespace diffusers {
namespace {

/// Why a model for such a scheduler cannot be trained here; empty if it can.
std::string_view refusal_of(ForwardProcessType process) {
  switch (process) {
    case ForwardProcessType::kOwn:
    case ForwardProcessType::kVariancePreserving:
    case ForwardProcessType::kFlowMatching:
      return {};
    case ForwardProcessType::kInversion:
      return "it turns images into noise, and its model sees the noise level before the one of its timestep; "
             "train with DDIMScheduler, which takes the same config";
    case ForwardProcessType::kInpainting:
      return "it inpaints with a trained model and has no add_noise; train with DDPMScheduler, which takes "
             "the same config";
    case ForwardProcessType::kUnscheduled:
      return "it has no noise schedule over training timesteps and no add_noise; train with DDPMScheduler or "
             "FlowMatchEulerDiscreteScheduler";
    case ForwardProcessType::kPreconditioned:
      return "its model is preconditioned, with noise levels drawn from a log-normal; train with EDMTask, "
             "whose models it samples";
    case ForwardProcessType::kConsistency:
      return "it samples consistency models, which have another objective";
    case ForwardProcessType::kVarianceExploding:
      return "its model predicts the score of a variance-exploding process, for which there is no objective";
  }
  return "its forward process is unknown";
}

/// A class of the user's is trained by its own add_noise, which must give what the model sees.
void require_unscaled_input(const Scheduler& scheduler) {
  const Timesteps timesteps = scheduler.timesteps();
  const bool has_timesteps = timesteps.defined() && timesteps.dim() == 1 && timesteps.size(0) > 0;
  const Tensor sample = at::ones({1, 1, 1, 1}, at::kFloat);
  const Tensor scaled =
      scheduler.scale_model_input(sample, has_timesteps ? *timesteps.begin() : at::zeros({}, at::kLong));
  require<ConfigError>(scaled.defined() && at::equal(scaled.to(sample.options()), sample),
                       "training with {} is not supported: its scale_model_input changes the model's input, "
                       "and how is known for the classes of this library only",
                       scheduler.class_name());
}

}  // namespace

std::optional<NoiseSchedule> variance_preserving_schedule(const Scheduler& scheduler) {
  if (scheduler.forward_process() != ForwardProcessType::kVariancePreserving || scheduler.uses_flow_sigmas())
    return std::nullopt;
  const NoiseSchedule* schedule = scheduler.noise_schedule();
  return schedule != nullptr ? std::optional(*schedule) : std::nullopt;
}

ForwardProcess::ForwardProcess(const Scheduler& scheduler)
    : num_train_timesteps_(static_cast<double>(scheduler.num_train_timesteps())) {
  const std::string name = scheduler.class_name();
  const std::string_view refusal = refusal_of(scheduler.forward_process());
  require<ConfigError>(refusal.empty(), "training with {} is not supported: {}", name, refusal);
  const bool predicts_flow = scheduler.prediction_type() == PredictionType::kFlowPrediction;
  if (scheduler.forward_process() != ForwardProcessType::kVariancePreserving) {
    if (predicts_flow) {
      use_flow(scheduler);
    } else {
      require_unscaled_input(scheduler);
      scheduler_ = scheduler.clone();
    }
    return;
  }
  const bool has_flow_sigmas = scheduler.uses_flow_sigmas();
  require<ConfigError>(
      !predicts_flow && !has_flow_sigmas,
      "training with {} is not supported for prediction_type \"{}\" and use_flow_sigmas = {}: its sampling "
      "rounds the timesteps of a flow to whole numbers; train with FlowMatchEulerDiscreteScheduler and the "
      "same shift, and sample with {}",
      name, scheduler.prediction_type_name(), has_flow_sigmas, name);
  const NoiseSchedule* schedule = scheduler.noise_schedule();
  require<ConfigError>(schedule != nullptr, "training with {} is not supported: it has no noise_schedule()",
                       name);
  schedule_ = *schedule;
  if (scheduler.has_continuous_timesteps())
    continuous_timesteps_ =
        training_run(*schedule_, at::kFloat, /*continuous=*/true).timesteps().tensor().flip(0);
}

void ForwardProcess::use_flow(const Scheduler& scheduler) {
  const std::string name = scheduler.class_name();
  flow_shift_ = scheduler.flow_shift().value_or(1.0);
  if (scheduler.forward_process() == ForwardProcessType::kFlowMatching) {
    require<ConfigError>(!scheduler.has_inverted_sigmas(),
                         "training with {} is not supported for invert_sigmas = true, whose timesteps count "
                         "from noise to data; expected false",
                         name);
    flow_timesteps_ = flow_training_run(scheduler.num_train_timesteps(), flow_shift_).timesteps().tensor();
    return;
  }
  const Timesteps timesteps = scheduler.timesteps();
  require<ConfigError>(
      timesteps.defined() && timesteps.dim() == 1 && timesteps.size(0) == scheduler.num_train_timesteps(),
      "{} has prediction_type \"flow_prediction\", but its timesteps are {}; a training takes the {} that a "
      "new FlowMatchEulerDiscreteScheduler has",
      name, describe(timesteps), scheduler.num_train_timesteps());
  flow_timesteps_ = timesteps.to(at::kCPU, at::kFloat);
}

Tensor ForwardProcess::add_noise(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const {
  if (schedule_) return schedule_->add_noise(x0, noise, timesteps);
  if (!is_flow()) return scheduler_->add_noise(x0, noise, timesteps);
  // x_t = (1 - sigma) x_0 + sigma noise, and the timesteps are sigma T.
  const Tensor sigma = broadcast_per_sample(timesteps.to(x0.scalar_type()) / num_train_timesteps_, x0.dim());
  return (1 - sigma) * x0 + sigma * noise;
}

Tensor ForwardProcess::model_timesteps(const Tensor& timesteps) const {
  if (!has_continuous_timesteps()) return timesteps;
  if (!on_device_.defined() || on_device_.device() != timesteps.device())
    on_device_ = continuous_timesteps_.to(timesteps.device());
  return on_device_.index_select(0, timesteps.flatten());
}

ForwardProcess::Shares ForwardProcess::shares() const {
  if (is_flow()) {
    const Tensor sigma = flow_timesteps_.flip(0) / num_train_timesteps_;
    return {1 - sigma, sigma};
  }
  const Tensor alphas_cumprod = schedule_ ? schedule_->alphas_cumprod() : scheduler_->alphas_cumprod();
  return {alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()};
}

}  // namespace diffusers
