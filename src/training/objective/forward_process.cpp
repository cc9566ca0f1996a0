#include "training/objective/forward_process.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "core/json.h"
#include "core/require.h"
#include "schedulers/sigma_math.h"

namespace diffusers {
namespace {

/// Their model sees sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.
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

/// Their add_noise and get_velocity are this process, whatever timesteps are set.
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
  const std::string name = scheduler.class_name();
  if (!is_any_of(name, kVariancePreserving) || is_any_of(name, kWithOwnVelocity)) return std::nullopt;
  if (is_true(config_of(scheduler), "use_flow_sigmas")) return std::nullopt;
  return NoiseSchedule(scheduler.betas(), scheduler.alphas_cumprod());
}

ForwardProcess::ForwardProcess(const Scheduler& scheduler)
    : num_train_timesteps_(static_cast<double>(scheduler.num_train_timesteps())) {
  const std::string name = scheduler.class_name();
  for (const Refusal& refused : kRefused)
    require<ConfigError>(name != refused.class_name, "training with {} is not supported: {}", name,
                         refused.reason);
  const bool predicts_flow = scheduler.prediction_type_name() == "flow_prediction";
  if (!is_any_of(name, kVariancePreserving)) {
    if (predicts_flow) {
      use_flow(scheduler);
    } else {
      require_unscaled_input(scheduler);
      scheduler_ = scheduler.clone();
    }
    return;
  }
  const Json config = config_of(scheduler);
  const bool has_flow_sigmas = is_true(config, "use_flow_sigmas");
  require<ConfigError>(
      !predicts_flow && !has_flow_sigmas,
      "training with {} is not supported for prediction_type \"{}\" and use_flow_sigmas = {}: its sampling "
      "rounds the timesteps of a flow to whole numbers; train with FlowMatchEulerDiscreteScheduler and the "
      "same shift, and sample with {}",
      name, scheduler.prediction_type_name(), has_flow_sigmas, name);
  schedule_ = NoiseSchedule(scheduler.betas(), scheduler.alphas_cumprod());
  if (config.value("timestep_type", Json()) == "continuous" &&
      scheduler.prediction_type_name() == "v_prediction")
    continuous_timesteps_ =
        training_run(*schedule_, at::kFloat, /*continuous=*/true).timesteps().tensor().flip(0);
}

void ForwardProcess::use_flow(const Scheduler& scheduler) {
  const std::string name = scheduler.class_name();
  const Json config = config_of(scheduler);
  flow_shift_ = is_true(config, "use_dynamic_shifting") ? 1.0 : number_or(config, "shift", 1.0);
  if (is_any_of(name, kFlowMatching)) {
    require<ConfigError>(!is_true(config, "invert_sigmas"),
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
  std::vector<int64_t> per_sample(static_cast<std::size_t>(x0.dim()), 1);
  per_sample[0] = x0.size(0);
  const Tensor sigma = (timesteps.to(x0.scalar_type()) / num_train_timesteps_).view(per_sample);
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
