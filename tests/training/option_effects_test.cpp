// Changed options of a TrainingConfig that have no effect are refused.

#include "training/option_effects.h"

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;

Json fields_of(const TrainingConfig& config) { return parse_json(config.to_json(), "the config"); }

using ConfigChange = std::function<void(TrainingConfig&)>;

ConfigChange with_optimizer(OptimizerType type) {
  return [type](TrainingConfig& c) { c.optimizer = type; };
}

ConfigChange with_schedule(const char* name) {
  return [name](TrainingConfig& c) { c.lr_scheduler = name; };
}

/// Changes of other options with which a field has an effect (on), or has none (off).
struct Switch {
  std::vector<ConfigChange> on, off;
};

/// Returns the switches of each field that does not always have an effect.
std::map<std::string, Switch> switches() {
  using enum OptimizerType;
  const ConfigChange nothing = [](TrainingConfig&) {};
  const ConfigChange ema = [](TrainingConfig& c) { c.use_ema = true; };
  const ConfigChange lit = [](TrainingConfig& c) {
    c.use_ema = true;
    c.ema_type = EMAType::kLitEma;
  };
  const ConfigChange no_warmup = [](TrainingConfig& c) {
    c.use_ema = true;
    c.use_ema_warmup = false;
  };
  const ConfigChange huber = [](TrainingConfig& c) { c.loss_type = LossType::kHuber; };
  const ConfigChange smooth = [](TrainingConfig& c) { c.loss_type = LossType::kSmoothL1; };
  const ConfigChange l1 = [](TrainingConfig& c) { c.loss_type = LossType::kL1; };
  const ConfigChange later = [](TrainingConfig& c) { c.timestep_bias_strategy = TimestepBias::kLater; };
  const ConfigChange range = [](TrainingConfig& c) { c.timestep_bias_strategy = TimestepBias::kRange; };
  const ConfigChange sgd = [](TrainingConfig& c) {
    c.optimizer = OptimizerType::kSGD;
    c.sgd_momentum = 0.9;
  };
  const std::vector<ConfigChange> with_betas{with_optimizer(kAdamW), with_optimizer(kAdam),
                                             with_optimizer(kLion)};
  const std::vector<ConfigChange> without_betas{with_optimizer(kSGD), with_optimizer(kAdafactor)};
  const std::vector<ConfigChange> adam{with_optimizer(kAdamW), with_optimizer(kAdam)};
  const std::vector<ConfigChange> not_adam{with_optimizer(kSGD), with_optimizer(kAdafactor),
                                           with_optimizer(kLion)};
  const std::vector<ConfigChange> not_adafactor{nothing, with_optimizer(kSGD), with_optimizer(kLion)};
  return {
      {"lr_warmup_steps",
       {{nothing, with_schedule("linear"), with_schedule("constant_with_warmup")},
        {with_schedule("constant"), with_schedule("piecewise_constant")}}},
      {"ema_type", {{ema}, {nothing}}},
      {"use_ema_warmup", {{ema, lit}, {nothing}}},
      {"ema_inv_gamma", {{ema}, {nothing, lit, no_warmup}}},
      {"ema_power", {{ema}, {nothing, lit, no_warmup}}},
      {"ema_max_decay", {{ema, lit, no_warmup}, {nothing}}},
      {"ema_min_decay", {{ema, no_warmup}, {nothing, lit}}},
      {"ema_update_after_step", {{ema, no_warmup}, {nothing, lit}}},
      {"adam_beta1", {with_betas, without_betas}},
      {"adam_beta2", {with_betas, without_betas}},
      {"adam_epsilon", {adam, not_adam}},
      {"huber_schedule", {{huber, smooth}, {nothing, l1}}},
      {"huber_c", {{huber, smooth}, {nothing, l1}}},
      {"timestep_bias_multiplier", {{later, range}, {nothing}}},
      {"timestep_bias_begin", {{range}, {nothing, later}}},
      {"timestep_bias_end", {{range}, {nothing, later}}},
      {"timestep_bias_portion", {{later}, {nothing, range}}},
      {"adam_amsgrad", {adam, not_adam}},
      {"sgd_momentum", {{with_optimizer(kSGD)}, with_betas}},
      {"sgd_dampening", {{sgd}, {with_optimizer(kSGD), nothing}}},
      {"sgd_nesterov", {{sgd}, with_betas}},
      {"adafactor_beta2_decay", {{with_optimizer(kAdafactor)}, not_adafactor}},
      {"adafactor_eps1", {{with_optimizer(kAdafactor)}, not_adafactor}},
      {"adafactor_eps2", {{with_optimizer(kAdafactor)}, not_adafactor}},
      {"adafactor_d", {{with_optimizer(kAdafactor)}, not_adafactor}},
      {"post_hoc_ema_steps", {{[](TrainingConfig& c) { c.post_hoc_ema_sigma_rels = {0.1}; }}, {nothing}}},
      {"logging_dir",
       {{nothing,
         [](TrainingConfig& c) {
           c.tensorboard = false;
           c.overwrite_output_dir = true;
         }},
        {[](TrainingConfig& c) { c.tensorboard = false; }}}},
      {"lr_num_cycles", {{with_schedule("cosine_with_restarts")}, {nothing, with_schedule("polynomial")}}},
      {"lr_power", {{with_schedule("polynomial")}, {nothing, with_schedule("constant")}}},
      {"lr_step_rules", {{with_schedule("piecewise_constant")}, {nothing, with_schedule("constant")}}},
  };
}

TEST(OptionEffects, CoverEveryFieldOfTheConfigOnce) {
  std::map<std::string, int> listed;
  for (const OptionEffect<TrainingConfig>& effect : option_effects()) ++listed[std::string(effect.key)];
  const Json fields = fields_of({});
  for (const auto& item : fields.items())
    EXPECT_EQ(listed[item.key()], 1) << item.key() << ": say in option_effects() when it has an effect";
  for (const auto& [key, count] : listed) EXPECT_TRUE(fields.contains(key)) << key << " is no field";
}

TEST(OptionEffects, RefuseAChangedFieldWithoutEffect) {
  const std::map<std::string, Switch> all = switches();
  const Json defaults = fields_of({});
  std::size_t conditional = 0;
  for (const OptionEffect<TrainingConfig>& effect : option_effects()) {
    const std::string key(effect.key);
    if (effect.may_be_changed == nullptr) {
      EXPECT_FALSE(all.contains(key)) << key << " has always an effect";
      continue;
    }
    ++conditional;
    ASSERT_TRUE(all.contains(key)) << key << ": say here what gives it an effect";
    for (const ConfigChange& change : all.at(key).on) {
      TrainingConfig config;
      change(config);
      Json fields = fields_of(config);
      fields[key] = "another value";
      EXPECT_NO_THROW(require_options_with_effect(config, option_effects(), fields, defaults)) << key;
    }
    for (const ConfigChange& change : all.at(key).off) {
      TrainingConfig config;
      change(config);
      Json fields = fields_of(config);
      EXPECT_NO_THROW(require_options_with_effect(config, option_effects(), fields, defaults)) << key;
      fields[key] = "another value";
      const auto check = [&] { require_options_with_effect(config, option_effects(), fields, defaults); };
      expect_throws_with<ConfigError>(
          check, key + " is \"another value\", but has an effect only with " + std::string(effect.needs));
      expect_throws_with<ConfigError>(check, "leave it at its default, " + defaults.at(key).dump());
    }
  }
  EXPECT_EQ(conditional, all.size());
}

TEST(OptionEffects, AreCheckedWithTheConfig) {
  const auto refuses = [](const TrainingConfig& config, const char* message) {
    expect_throws_with<ConfigError>([&] { config.validate(); }, message);
  };
  refuses({.ema_power = 0.5}, "ema_power is 0.5, but has an effect only with use_ema");
  refuses({.adam_beta2 = 0.9, .optimizer = "adafactor"},
          "adam_beta2 is 0.9, but has an effect only with optimizer \"adamw\", \"adam\" or \"lion\"");
  refuses({.adam_epsilon = 1e-6, .optimizer = "lion"}, "adam_epsilon is 1e-06");
  refuses({.sgd_momentum = 0.9}, "sgd_momentum is 0.9");
  refuses({.lr_scheduler = "constant", .lr_warmup_steps = 10}, "lr_warmup_steps is 10");
  refuses({.lr_power = 2.0}, "lr_power is 2.0");
}

// Programs pass every flag to the config, with the defaults of Python's scripts.
TEST(OptionEffects, LetTheDefaultsOfScriptsPass) {
  const auto passes = [](const TrainingConfig& config) { EXPECT_NO_THROW(config.validate()); };
  passes({.lr_scheduler = "constant", .lr_warmup_steps = 0});
  passes({.lr_scheduler = "constant"});
  for (const double beta1 : {0.9, 0.95})
    passes({.adam_beta1 = beta1, .adam_weight_decay = 1e-2, .optimizer = "sgd"});
}

}  // namespace
}  // namespace diffusers
