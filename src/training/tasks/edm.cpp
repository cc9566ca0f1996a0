#include <memory>
#include <string>
#include <utility>

#include <diffusers/training/edm.h>

#include "core/json.h"
#include "core/require.h"
#include "training/objective/edm_process.h"
#include "training/tasks/task_inputs.h"

namespace diffusers {
namespace {

EDMEulerScheduler edm_scheduler(const EDMConfig& config) {
  return EDMEulerScheduler(
      {.sigma_min = config.sigma_min, .sigma_max = config.sigma_max, .sigma_data = config.sigma_data});
}

DiffusionTaskOptions edm_task_options(const EDMConfig& config) {
  require<ConfigError>(config.log_variance != LogVarianceType::kTable,
                       "log_variance is \"table\", which needs discrete timesteps, but EDM's noise levels "
                       "are continuous; expected \"none\" or \"fourier\"");
  return {.learned_log_variance = config.log_variance,
          .class_conditional = config.class_conditional,
          .class_dropout_prob = config.class_dropout_prob,
          .conditioning = config.conditioning};
}

}  // namespace

EDMTask::EDMTask(TrainableDenoiser model, const EDMConfig& config, std::string name)
    : DiffusionTask(std::move(model),
                    std::make_shared<EDMProcess>(edm_scheduler(config), config.p_mean, config.p_std),
                    edm_task_options(config), std::move(name)),
      config_(config),
      preconditioner_(config.sigma_data) {}

EDMEulerScheduler EDMTask::scheduler() const { return edm_scheduler(config_); }

void EDMTask::configure(const TrainingConfig& config) {
  refuse_flags(config,
               {"snr_gamma", "noise_offset", "input_perturbation", "loss_type", "huber_schedule", "huber_c",
                "logit_mean", "logit_std", "mode_scale", "timestep_bias_strategy", "timestep_bias_multiplier",
                "timestep_bias_begin", "timestep_bias_end", "timestep_bias_portion"},
               "EDMTask");
  DiffusionTask::configure(config);
}

std::string EDMTask::config_json() const {
  Json json = {{"_class_name", "EDMTask"},
               {"p_mean", config_.p_mean},
               {"p_std", config_.p_std},
               {"sigma_data", config_.sigma_data},
               {"log_variance", std::string(config_.log_variance.name())},
               {"class_dropout_prob", config_.class_dropout_prob}};
  json["class_conditional"] = config_.class_conditional ? Json(*config_.class_conditional) : Json();
  return dump_json(json);
}

}  // namespace diffusers
