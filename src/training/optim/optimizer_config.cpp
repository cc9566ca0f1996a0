// The options of each type of optimizer, their ranges and their defaults.

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>

#include "core/require.h"
#include "training/optim/update_rule.h"

namespace diffusers {
namespace {

void require_at_least_zero(double value, const char* key) {
  require<ConfigError>(std::isfinite(value) && value >= 0, "{} is {}, expected a finite number of at least 0",
                       key, value);
}

double shown(double value) { return value; }
bool shown(bool value) { return value; }
double shown(std::optional<double> value) { return value.value_or(0); }

void refuse_unknown_options(const OptimizerConfig& config) {
  using enum OptimizerType;
  const OptimizerConfig defaults;
  const auto belongs_to = [&](std::initializer_list<OptimizerType> types, auto OptimizerConfig::*option,
                              const char* key) {
    const bool is_known = std::find(types.begin(), types.end(), config.type.value()) != types.end();
    require<ConfigError>(is_known || config.*option == defaults.*option,
                         "{} is {}, but the optimizer \"{}\" has no such option", key, shown(config.*option),
                         config.type.name());
  };
  belongs_to({kAdamW, kAdam, kLion}, &OptimizerConfig::beta1, "beta1");
  belongs_to({kAdamW, kAdam, kLion}, &OptimizerConfig::beta2, "beta2");
  belongs_to({kAdamW, kAdam}, &OptimizerConfig::eps, "eps");
  belongs_to({kAdamW, kAdam}, &OptimizerConfig::amsgrad, "amsgrad");
  belongs_to({kSGD}, &OptimizerConfig::momentum, "momentum");
  belongs_to({kSGD}, &OptimizerConfig::dampening, "dampening");
  belongs_to({kSGD}, &OptimizerConfig::nesterov, "nesterov");
  belongs_to({kAdafactor}, &OptimizerConfig::beta2_decay, "beta2_decay");
  belongs_to({kAdafactor}, &OptimizerConfig::eps1, "eps1");
  belongs_to({kAdafactor}, &OptimizerConfig::eps2, "eps2");
  belongs_to({kAdafactor}, &OptimizerConfig::d, "d");
}

}  // namespace

void internal::validate_optimizer_config(const OptimizerConfig& config) {
  refuse_unknown_options(config);
  require_at_least_zero(config.lr, "lr");
  require<ConfigError>(config.beta1 >= 0 && config.beta1 < 1, "beta1 is {}, expected 0 to less than 1",
                       config.beta1);
  require<ConfigError>(config.beta2 >= 0 && config.beta2 < 1, "beta2 is {}, expected 0 to less than 1",
                       config.beta2);
  require_at_least_zero(config.eps, "eps");
  require_at_least_zero(config.weight_decay, "weight_decay");
  require_at_least_zero(config.momentum, "momentum");
  require<ConfigError>(std::isfinite(config.dampening), "dampening is {}, expected a finite number",
                       config.dampening);
  require<ConfigError>(
      !config.nesterov || (config.momentum > 0 && config.dampening == 0),
      "nesterov is true, but momentum is {} and dampening is {}: it needs momentum and no dampening",
      config.momentum, config.dampening);
  require<ConfigError>(std::isfinite(config.beta2_decay) && config.beta2_decay <= 0,
                       "beta2_decay is {}, expected a finite number of at most 0", config.beta2_decay);
  if (config.eps1) require_at_least_zero(*config.eps1, "eps1");
  require_at_least_zero(config.eps2, "eps2");
  require<ConfigError>(std::isfinite(config.d) && config.d >= 1,
                       "d is {}, expected a finite number of at least 1", config.d);
}

OptimizerConfig default_optimizer_config(OptimizerType type) {
  OptimizerConfig config;
  config.type = type;
  if (type != OptimizerType::kAdamW) config.weight_decay = 0.0;
  if (type == OptimizerType::kLion) {
    config.lr = 1e-4;
    config.beta2 = 0.99;
  }
  if (type == OptimizerType::kAdafactor) config.lr = 1e-2;
  return config;
}

}  // namespace diffusers
