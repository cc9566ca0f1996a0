#include "training/objective/scheduler_facts.h"

#include <string>
#include <string_view>

#include <ATen/ATen.h>

#include "core/require.h"
#include "schedulers/sigma_math.h"
#include "training/objective/forward_process.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Returns the reason why the scheduler cannot train a model. Empty: it can.
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

bool is_variance_preserving(const Scheduler& scheduler) {
  return scheduler.forward_process() == ForwardProcessType::kVariancePreserving;
}

bool predicts_flow(const Scheduler& scheduler) {
  return scheduler.prediction_type() == PredictionType::kFlowPrediction;
}

/// A class of the program is trained with its own add_noise, which must return the model's input.
void require_unscaled_input(const Scheduler& scheduler) {
  const Timesteps timesteps = scheduler.timesteps();
  const bool has_timesteps = timesteps.defined() && timesteps.dim() == 1 && timesteps.size(0) > 0;
  const Tensor sample = at::ones({1, 1, 1, 1}, at::kFloat);
  const Tensor scaled =
      scheduler.scale_model_input(sample, has_timesteps ? *timesteps.begin() : at::zeros({}, at::kLong));
  require<ConfigError>(scaled.defined() && at::equal(scaled.to(sample.options()), sample),
                       "training with {} is not supported: its scale_model_input changes the model's input, "
                       "which training can reproduce for the classes of this library only",
                       scheduler.class_name());
}

void require_trainable_flow(const Scheduler& scheduler) {
  const std::string name = scheduler.class_name();
  if (scheduler.forward_process() == ForwardProcessType::kFlowMatching) {
    require<ConfigError>(!scheduler.has_inverted_sigmas(),
                         "training with {} is not supported for invert_sigmas = true, whose timesteps count "
                         "from noise to data; expected false",
                         name);
    return;
  }
  const Timesteps timesteps = scheduler.timesteps();
  require<ConfigError>(
      timesteps.defined() && timesteps.dim() == 1 && timesteps.size(0) == scheduler.num_train_timesteps(),
      "{} has prediction_type \"flow_prediction\", but its timesteps are {}; training expects the {} that a "
      "new FlowMatchEulerDiscreteScheduler has",
      name, describe(timesteps), scheduler.num_train_timesteps());
}

}  // namespace

void require_trainable(const Scheduler& scheduler) {
  const std::string name = scheduler.class_name();
  const std::string_view refusal = refusal_of(scheduler.forward_process());
  require<ConfigError>(refusal.empty(), "training with {} is not supported: {}", name, refusal);
  if (is_variance_preserving(scheduler)) {
    const bool has_flow_sigmas = scheduler.uses_flow_sigmas();
    require<ConfigError>(
        !predicts_flow(scheduler) && !has_flow_sigmas,
        "training with {} is not supported for prediction_type \"{}\" and use_flow_sigmas = {}: its sampling "
        "rounds the timesteps of a flow to whole numbers; train with FlowMatchEulerDiscreteScheduler and the "
        "same shift, and sample with {}",
        name, scheduler.prediction_type_name(), has_flow_sigmas, name);
    require<ConfigError>(scheduler.noise_schedule() != nullptr,
                         "training with {} is not supported: it has no noise_schedule()", name);
  } else if (predicts_flow(scheduler)) {
    require_trainable_flow(scheduler);
  } else {
    require_unscaled_input(scheduler);
  }
}

std::optional<NoiseSchedule> variance_preserving_schedule(const Scheduler& scheduler) {
  if (!is_variance_preserving(scheduler) || scheduler.uses_flow_sigmas()) return std::nullopt;
  const NoiseSchedule* schedule = scheduler.noise_schedule();
  return schedule != nullptr ? std::optional(*schedule) : std::nullopt;
}

Tensor log_sigma_times(const Scheduler& scheduler) {
  if (!is_variance_preserving(scheduler) || !scheduler.has_continuous_timesteps()) return {};
  const NoiseSchedule* schedule = scheduler.noise_schedule();
  if (schedule == nullptr) return {};
  return training_run(*schedule, at::kFloat, /*continuous=*/true).timesteps().tensor().flip(0);
}

Tensor flow_timesteps(const Scheduler& scheduler) {
  if (scheduler.forward_process() == ForwardProcessType::kFlowMatching)
    return flow_training_run(scheduler.num_train_timesteps(), scheduler.flow_shift().value_or(1.0))
        .timesteps()
        .tensor();
  const Timesteps timesteps = scheduler.timesteps();
  return timesteps.defined() ? timesteps.to(at::kCPU, at::kFloat) : Tensor();
}

}  // namespace internal
}  // namespace diffusers
