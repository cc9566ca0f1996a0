#include "training/loop/trained_parameters.h"

#include <algorithm>
#include <string>

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/loop/update_run.h"
#include "training/optim/update_rule.h"

namespace diffusers {
inline namespace internal {
namespace {

std::string prefix_of(const Task& task, const NamedModule& named) {
  return named.name == task.trained().front().name ? "" : named.name + ".";
}

bool is_one_of(const std::string& name, const std::vector<std::string>& names) {
  return names.empty() || std::find(names.begin(), names.end(), name) != names.end();
}

bool fits_one_of(const TensorMap& parameters, const std::string& pattern) {
  return std::any_of(parameters.begin(), parameters.end(),
                     [&](const auto& entry) { return matches_pattern(entry.first, pattern); });
}

void require_fit(const TensorMap& parameters, const std::string& pattern, const char* key) {
  require<ConfigError>(fits_one_of(parameters, pattern),
                       "{} has the pattern \"{}\", which fits no parameter's name", key, pattern);
}

bool fits_any(const std::string& name, const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns)
    if (matches_pattern(name, pattern)) return true;
  return false;
}

void require_patterns_fit(const TensorMap& parameters, const TrainingConfig& config) {
  for (const std::string& pattern : config.train_only) require_fit(parameters, pattern, "train_only");
  for (const std::string& pattern : config.freeze) require_fit(parameters, pattern, "freeze");
}

bool is_frozen_by(const TrainingConfig& config, const std::string& name) {
  return (!config.train_only.empty() && !fits_any(name, config.train_only)) || fits_any(name, config.freeze);
}

/// @param trained the names of the parameters that are trained
void require_trained_fit(const std::vector<std::string>& trained, const std::string& pattern,
                         const char* key) {
  require<ConfigError>(std::any_of(trained.begin(), trained.end(),
                                   [&](const auto& name) { return matches_pattern(name, pattern); }),
                       "{} has the pattern \"{}\", which fits none of {} trained parameters", key, pattern,
                       trained.size());
}

/// An average of no module would be ignored.
void require_averaged_module(const Task& task, const TrainingConfig& config) {
  const std::vector<NamedModule>& trained = task.trained();
  if (std::any_of(trained.begin(), trained.end(), [](const NamedModule& named) { return named.is_averaged; }))
    return;
  require<ConfigError>(!config.use_ema, "use_ema is true, but the task averages none of its {} modules",
                       trained.size());
  require<ConfigError>(config.post_hoc_ema_sigma_rels.empty(),
                       "post_hoc_ema_sigma_rels has {} widths, but the task averages none of its {} modules",
                       config.post_hoc_ema_sigma_rels.size(), trained.size());
}

}  // namespace

TensorMap named_parameters(const Task& task, const std::vector<std::string>& modules) {
  TensorMap parameters;
  for (const NamedModule& named : task.trained()) {
    if (!is_one_of(named.name, modules)) continue;
    for (const auto& parameter : named.module->module().named_parameters())
      parameters.insert(prefix_of(task, named) + parameter.key(), parameter.value());
  }
  return parameters;
}

void apply_freezing(const TensorMap& parameters, const TrainingConfig& config) {
  require_patterns_fit(parameters, config);
  for (const auto& [name, parameter] : parameters) {
    if (!is_frozen_by(config, name)) continue;
    Tensor frozen = parameter;
    frozen.requires_grad_(false);
  }
}

void require_trainable(const std::vector<Tensor>& trainable, std::size_t parameters) {
  require<ConfigError>(!trainable.empty(), "the model has {} parameters, none of which requires a gradient",
                       parameters);
  for (const Tensor& parameter : trainable) {
    require<ConfigError>(
        parameter.scalar_type() == at::kFloat || parameter.scalar_type() == at::kDouble,
        "the model's weights are {}, expected float32 while they are trained; mixed_precision lowers "
        "the precision of the computation alone",
        dtype_name(parameter.scalar_type()));
    require<ConfigError>(parameter.device() == trainable.front().device(),
                         "the model's parameters lie on {} and {}, expected one device",
                         trainable.front().device().str(), parameter.device().str());
  }
}

void check_trained_parameters(const Task& task, const TrainingConfig& config) {
  const TensorMap parameters = named_parameters(task);
  require_patterns_fit(parameters, config);
  std::vector<Tensor> trainable;
  std::vector<std::string> names;
  for (const auto& [name, parameter] : parameters) {
    if (!parameter.requires_grad() || is_frozen_by(config, name)) continue;
    trainable.push_back(parameter);
    names.push_back(name);
  }
  require_trainable(trainable, parameters.size());
  for (const LearningRateFactor& one : config.lr_factors)
    require_trained_fit(names, one.pattern, "lr_factors");
  for (const std::string& pattern : config.no_decay) require_trained_fit(names, pattern, "no_decay");
  require_averaged_module(task, config);
  for (const Update& update : checked_updates(task, config)) {
    const TensorMap own = named_parameters(task, update.modules);
    require<ConfigError>(
        std::any_of(own.begin(), own.end(),
                    [&](const auto& entry) {
                      return entry.second.requires_grad() && !is_frozen_by(config, entry.first);
                    }),
        "none of the {} parameters of the update \"{}\" requires a gradient", own.size(), update.name);
    parameter_groups(task, config, update.modules);
    validate_optimizer_config(config_of_optimizer(update, config));
  }
}

std::vector<ParameterGroup> parameter_groups(const Task& task, const TrainingConfig& config,
                                             const std::vector<std::string>& modules) {
  const TensorMap parameters = named_parameters(task, modules);
  std::vector<ParameterRule> rules;
  ParameterRule no_decay{.patterns = {}, .weight_decay = 0.0};
  for (const std::string& pattern : config.no_decay)
    if (fits_one_of(parameters, pattern)) no_decay.patterns.push_back(pattern);
  if (!no_decay.patterns.empty()) rules.push_back(no_decay);
  if (config.no_weight_decay_on_bias_and_norm) {
    ParameterRule rule{.patterns = {}, .weight_decay = 0.0};
    for (const NamedModule& named : task.trained()) {
      if (!is_one_of(named.name, modules)) continue;
      for (const std::string& name : no_decay_names(named.module->module()))
        rule.patterns.push_back(prefix_of(task, named) + name);
    }
    if (!rule.patterns.empty()) rules.push_back(rule);
  }
  for (const LearningRateFactor& one : config.lr_factors)
    if (fits_one_of(parameters, one.pattern))
      rules.push_back({.patterns = {one.pattern}, .lr_factor = one.factor});
  return make_parameter_groups(parameters, rules);
}

OptimizerConfig optimizer_config(const TrainingConfig& config) {
  using enum OptimizerType;
  OptimizerConfig optimizer = default_optimizer_config(config.optimizer);
  optimizer.lr = config.learning_rate;
  optimizer.weight_decay = config.adam_weight_decay;
  if (config.optimizer == kAdamW || config.optimizer == kAdam || config.optimizer == kLion) {
    optimizer.beta1 = config.adam_beta1;
    optimizer.beta2 = config.adam_beta2;
  }
  if (config.optimizer == kAdamW || config.optimizer == kAdam) {
    optimizer.eps = config.adam_epsilon;
    optimizer.amsgrad = config.adam_amsgrad;
  }
  if (config.optimizer == kSGD) {
    optimizer.momentum = config.sgd_momentum;
    optimizer.dampening = config.sgd_dampening;
    optimizer.nesterov = config.sgd_nesterov;
  }
  if (config.optimizer == kAdafactor) {
    optimizer.beta2_decay = config.adafactor_beta2_decay;
    optimizer.eps1 = config.adafactor_eps1;
    optimizer.eps2 = config.adafactor_eps2;
    optimizer.d = config.adafactor_d;
  }
  return optimizer;
}

}  // namespace internal
}  // namespace diffusers
