#include "training/loop/update_options.h"

#include <string>

#include "core/json.h"
#include "core/require.h"
#include "training/loop/trained_parameters.h"
#include "training/loop/update_run.h"

namespace diffusers {
inline namespace internal {
namespace {

template <auto Field>
void reset_option(TrainingConfig& config) {
  config.*Field = TrainingConfig{}.*Field;
}

/// Values that scripts pass on whether or not they have an effect; `option_effects` lets them pass as well.
bool is_neutral(std::string_view key, const TrainingConfig& config) {
  return (key == "adam_beta1" && config.adam_beta1 == 0.9) ||
         (key == "lr_warmup_steps" && config.lr_warmup_steps == 0);
}

/// The options that the steps of an update depend on.
Json options_in_force(const Update& update, const TrainingConfig& config) {
  const OptimizerConfig optimizer = config_of_optimizer(update, config);
  const std::string schedule = update.lr_scheduler.value_or(config.lr_scheduler);
  Json options = {{"modules", update.modules},
                  {"optimizer", optimizer_json(optimizer)},
                  {"lr_scheduler", schedule},
                  {"max_grad_norm", update.max_grad_norm.value_or(config.max_grad_norm)},
                  {"start_step", update.start_step}};
  if (schedule != "constant" && schedule != "piecewise_constant")
    options["lr_warmup_steps"] = update.lr_warmup_steps.value_or(config.lr_warmup_steps);
  if (schedule == "cosine_with_restarts") options["lr_num_cycles"] = config.lr_num_cycles;
  if (schedule == "polynomial") options["lr_power"] = config.lr_power;
  if (schedule == "piecewise_constant") options["lr_step_rules"] = config.lr_step_rules;
  if (optimizer.weight_decay > 0) {
    options["no_decay"] = config.no_decay;
    options["no_weight_decay_on_bias_and_norm"] = config.no_weight_decay_on_bias_and_norm;
  }
  return options;
}

/// Of all updates of a task; null if it has none for this config.
Json options_in_force(const Task& task, const TrainingConfig& config) {
  Json options = Json::array();
  try {
    for (const Update& update : task.updates(config)) options.push_back(options_in_force(update, config));
  } catch (const Error&) {
    return {};
  }
  return options;
}

/// Returns ` ("generator", "discriminator")`; nothing for one update without a name.
std::string names_of_updates(const Task& task, const TrainingConfig& config) {
  std::string names;
  for (const Update& update : task.updates(config))
    if (!update.name.empty()) names += (names.empty() ? "" : ", ") + fmt::format("\"{}\"", update.name);
  return names.empty() ? names : " (" + names + ")";
}

}  // namespace

const std::vector<UpdateOption>& update_options() {
  using Config = TrainingConfig;
  constexpr std::string_view kOptimizer = "each brings its own optimizer";
  constexpr std::string_view kSchedule = "each brings its own lr_scheduler";
  constexpr std::string_view kDecay = "none has a weight decay above 0";
  static const std::vector<UpdateOption> kOptions{
      {"adam_beta1", reset_option<&Config::adam_beta1>, kOptimizer},
      {"adam_beta2", reset_option<&Config::adam_beta2>, kOptimizer},
      {"adam_weight_decay", reset_option<&Config::adam_weight_decay>, kOptimizer},
      {"adam_epsilon", reset_option<&Config::adam_epsilon>, kOptimizer},
      {"adam_amsgrad", reset_option<&Config::adam_amsgrad>, kOptimizer},
      {"sgd_dampening", reset_option<&Config::sgd_dampening>, kOptimizer},
      {"sgd_nesterov", reset_option<&Config::sgd_nesterov>, kOptimizer},
      {"sgd_momentum", reset_option<&Config::sgd_momentum>, kOptimizer},
      {"adafactor_beta2_decay", reset_option<&Config::adafactor_beta2_decay>, kOptimizer},
      {"adafactor_eps1", reset_option<&Config::adafactor_eps1>, kOptimizer},
      {"adafactor_eps2", reset_option<&Config::adafactor_eps2>, kOptimizer},
      {"adafactor_d", reset_option<&Config::adafactor_d>, kOptimizer},
      {"optimizer", reset_option<&Config::optimizer>, kOptimizer},
      {"learning_rate", reset_option<&Config::learning_rate>, kOptimizer},
      {"no_decay", reset_option<&Config::no_decay>, kDecay},
      {"no_weight_decay_on_bias_and_norm", reset_option<&Config::no_weight_decay_on_bias_and_norm>, kDecay},
      {"lr_num_cycles", reset_option<&Config::lr_num_cycles>, kSchedule},
      {"lr_power", reset_option<&Config::lr_power>, kSchedule},
      {"lr_step_rules", reset_option<&Config::lr_step_rules>, kSchedule},
      {"lr_warmup_steps", reset_option<&Config::lr_warmup_steps>,
       "each brings its own lr_warmup_steps, or an lr_scheduler without a warm-up"},
      {"lr_scheduler", reset_option<&Config::lr_scheduler>, kSchedule},
      {"max_grad_norm", reset_option<&Config::max_grad_norm>, "each brings its own max_grad_norm"},
  };
  return kOptions;
}

void require_options_of_updates(const Task& task, const TrainingConfig& config) {
  const Json in_force = options_in_force(task, config);
  const Json given = parse_json(config.to_json(), "the training config");
  const Json defaults = parse_json(TrainingConfig{}.to_json(), "the training config");
  for (const UpdateOption& option : update_options()) {
    const std::string key(option.key);
    if (given.at(key) == defaults.at(key) || is_neutral(key, config)) continue;
    // A task may also compute its optimizer from the field.
    TrainingConfig other = config;
    option.reset(other);
    if (options_in_force(task, other) != in_force) continue;
    fail<ConfigError>("{} is {}, but no update of the task{} takes it: {}; leave it at its default, {}", key,
                      json_excerpt(given.at(key)), names_of_updates(task, config), option.reason,
                      json_excerpt(defaults.at(key)));
  }
}

}  // namespace internal
}  // namespace diffusers
