#include "training/objective/scheduler_facts.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include <ATen/ATen.h>

#include "core/json.h"
#include "core/require.h"
#include "schedulers/sigma_math.h"
#include "training/objective/forward_process.h"

namespace diffusers {
namespace {

/// The model of these classes receives sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.
constexpr std::array<std::string_view, 19> kVariancePreserving{"DDPMScheduler",
                                                               "DDIMScheduler",
                                                               "PNDMScheduler",
                                                               "LMSDiscreteScheduler",
                                                               "EulerDiscreteScheduler",
                                                               "EulerAncestralDiscreteScheduler",
                                                               "HeunDiscreteScheduler",
                                                               "KDPM2DiscreteScheduler",
                                                               "KDPM2AncestralDiscreteScheduler",
                                                               "DPMSolverMultistepScheduler",
                                                               "DPMSolverMultistepInverseScheduler",
                                                               "DPMSolverSinglestepScheduler",
                                                               "DPMSolverSDEScheduler",
                                                               "DEISMultistepScheduler",
                                                               "UniPCMultistepScheduler",
                                                               "SASolverScheduler",
                                                               "LCMScheduler",
                                                               "TCDScheduler",
                                                               "UnCLIPScheduler"};

/// The add_noise and get_velocity of these classes are this process, independent of `set_timesteps`.
constexpr std::array<std::string_view, 4> kWithOwnVelocity{"DDPMScheduler", "DDIMScheduler", "LCMScheduler",
                                                           "TCDScheduler"};

constexpr std::array<std::string_view, 2> kFlowMatching{"FlowMatchEulerDiscreteScheduler",
                                                        "FlowMatchHeunDiscreteScheduler"};

struct Refusal {
  std::string_view class_name, reason;
};
constexpr std::array<Refusal, 7> kRefused{{
    {"DDIMInverseScheduler",
     "it turns images into noise, and its model sees the noise level before the one of its timestep; train "
     "with DDIMScheduler, which takes the same config"},
    {"RePaintScheduler",
     "it inpaints with a trained model and has no add_noise; train with DDPMScheduler, which takes the same "
     "config"},
    {"IPNDMScheduler",
     "it has no noise schedule over training timesteps and no add_noise; train with DDPMScheduler or "
     "FlowMatchEulerDiscreteScheduler"},
    {"EDMEulerScheduler",
     "its model is preconditioned, with noise levels drawn from a log-normal; train "
     "with EDMTask, whose models it samples"},
    {"EDMDPMSolverMultistepScheduler",
     "its model is preconditioned, with noise levels drawn from a "
     "log-normal; train with EDMTask, whose models it samples"},
    {"CMStochasticIterativeScheduler", "it samples consistency models, which have another objective"},
    {"ScoreSdeVeScheduler",
     "its model predicts the score of a variance-exploding process, for which there is no objective"},
}};

template <class Names>
bool is_any_of(std::string_view name, const Names& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Json config_of(const Scheduler& scheduler) {
  return parse_json(scheduler.config_json(), "config_json() of the scheduler");
}

bool is_true(const Json& config, const char* key) {
  const auto found = config.find(key);
  return found != config.end() && found->is_boolean() && found->get<bool>();
}

double number_or(const Json& config, const char* key, double fallback) {
  const auto found = config.find(key);
  return found != config.end() && found->is_number() ? found->get<double>() : fallback;
}

bool predicts_flow(const Scheduler& scheduler) {
  return scheduler.prediction_type_name() == "flow_prediction";
}

/// A class of another library is trained with its own add_noise, which must return the model's input.
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
  if (is_any_of(name, kFlowMatching)) {
    require<ConfigError>(!is_true(config_of(scheduler), "invert_sigmas"),
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
  for (const Refusal& refused : kRefused)
    require<ConfigError>(name != refused.class_name, "training with {} is not supported: {}", name,
                         refused.reason);
  if (is_any_of(name, kVariancePreserving)) {
    const bool has_flow_sigmas = is_true(config_of(scheduler), "use_flow_sigmas");
    require<ConfigError>(
        !predicts_flow(scheduler) && !has_flow_sigmas,
        "training with {} is not supported for prediction_type \"{}\" and use_flow_sigmas = {}: its sampling "
        "rounds the timesteps of a flow to whole numbers; train with FlowMatchEulerDiscreteScheduler and the "
        "same shift, and sample with {}",
        name, scheduler.prediction_type_name(), has_flow_sigmas, name);
  } else if (predicts_flow(scheduler)) {
    require_trainable_flow(scheduler);
  } else {
    require_unscaled_input(scheduler);
  }
}

std::optional<NoiseSchedule> variance_preserving_schedule(const Scheduler& scheduler) {
  const std::string name = scheduler.class_name();
  if (!is_any_of(name, kVariancePreserving) || is_any_of(name, kWithOwnVelocity)) return std::nullopt;
  if (is_true(config_of(scheduler), "use_flow_sigmas")) return std::nullopt;
  return NoiseSchedule(scheduler.betas(), scheduler.alphas_cumprod());
}

Tensor log_sigma_times(const Scheduler& scheduler) {
  if (scheduler.prediction_type_name() != "v_prediction" ||
      !is_any_of(scheduler.class_name(), kVariancePreserving) ||
      config_of(scheduler).value("timestep_type", Json()) != "continuous")
    return {};
  const NoiseSchedule schedule(scheduler.betas(), scheduler.alphas_cumprod());
  return training_run(schedule, at::kFloat, /*continuous=*/true).timesteps().tensor().flip(0);
}

double flow_shift(const Scheduler& scheduler) {
  const Json config = config_of(scheduler);
  return is_true(config, "use_dynamic_shifting") ? 1.0 : number_or(config, "shift", 1.0);
}

Tensor flow_timesteps(const Scheduler& scheduler) {
  if (is_any_of(scheduler.class_name(), kFlowMatching))
    return flow_training_run(scheduler.num_train_timesteps(), flow_shift(scheduler)).timesteps().tensor();
  const Timesteps timesteps = scheduler.timesteps();
  return timesteps.defined() ? timesteps.to(at::kCPU, at::kFloat) : Tensor();
}

}  // namespace diffusers
