// Options of a TrainingConfig that the updates of a task replace by their own.

#include "training/loop/update_options.h"

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::LogCapture;
using test::TemporaryFolder;
using test::TinyImages;
using test::TinyNet;

using UpdatesFunction = std::function<std::vector<Update>(const TrainingConfig&)>;

/// Two networks with updates of their own.
class TwoNets : public Task {
 public:
  explicit TwoNets(UpdatesFunction updates, bool is_averaged = true)
      : updates_(std::move(updates)),
        trained_{{"first", make_saved_module(first_), is_averaged},
                 {"second", make_saved_module(second_), is_averaged}} {}
  const std::vector<NamedModule>& trained() const override { return trained_; }
  std::vector<Update> updates(const TrainingConfig& config) const override { return updates_(config); }
  void configure(const TrainingConfig&) override {}
  void begin_step(const StepContext&) override {}
  StepLoss loss(const Batch& batch, std::size_t update) override {
    TinyNet& net = update == 0 ? first_ : second_;
    const Tensor times = at::zeros({batch.images.size(0)});
    return net->forward(batch.images, times).square().flatten(1).mean(1);
  }
  void save_extras(const std::filesystem::path&) const override {}

 private:
  TinyNet first_, second_;
  UpdatesFunction updates_;
  std::vector<NamedModule> trained_;
};

/// Updates that take nothing from the config.
std::vector<Update> own_updates(const TrainingConfig& /*config*/) {
  const Update first{.name = "first",
                     .modules = {"first"},
                     .optimizer = OptimizerConfig{.weight_decay = 0},
                     .lr_scheduler = "linear",
                     .lr_warmup_steps = 1,
                     .max_grad_norm = 1.0};
  Update second = first;
  second.name = "second";
  second.modules = {"second"};
  return {first, second};
}

/// The same, but for what `take` leaves to the config in the second update.
UpdatesFunction taking(const std::function<void(Update&)>& take) {
  return [take](const TrainingConfig& config) {
    std::vector<Update> updates = own_updates(config);
    take(updates[1]);
    return updates;
  };
}

using ConfigSetter = std::function<void(TrainingConfig&)>;

/// Another value of each field, with the options that it needs.
std::map<std::string, ConfigSetter> changes_of_all_fields() {
  using C = TrainingConfig;
  const auto sgd = [](const ConfigSetter& change) {
    return [change](C& c) {
      c.optimizer = "sgd";
      c.sgd_momentum = 0.5;
      change(c);
    };
  };
  const auto adafactor = [](const ConfigSetter& change) {
    return [change](C& c) {
      c.optimizer = "adafactor";
      change(c);
    };
  };
  const auto ema = [](const ConfigSetter& change) {
    return [change](C& c) {
      c.use_ema = true;
      change(c);
    };
  };
  const auto huber = [](const ConfigSetter& change) {
    return [change](C& c) {
      c.loss_type = "huber";
      change(c);
    };
  };
  const auto bias = [](const char* strategy, const ConfigSetter& change) {
    return [strategy, change](C& c) {
      c.timestep_bias_strategy = enum_from_name<TimestepBias>(strategy, "timestep_bias_strategy");
      change(c);
    };
  };
  return {
      {"output_dir", [](C& c) { c.output_dir = "elsewhere"; }},
      {"seed", [](C& c) { c.seed = 1; }},
      {"resolution", [](C& c) { c.resolution = 6; }},
      {"train_batch_size", [](C& c) { c.train_batch_size = 2; }},
      {"num_epochs", [](C& c) { c.num_epochs = 2; }},
      {"max_train_steps", [](C& c) { c.max_train_steps = 2000; }},
      {"gradient_accumulation_steps", [](C& c) { c.gradient_accumulation_steps = 2; }},
      {"gradient_checkpointing", [](C& c) { c.gradient_checkpointing = true; }},
      {"fused_backward_pass", [](C& c) { c.fused_backward_pass = true; }},
      {"learning_rate", [](C& c) { c.learning_rate = 0.5; }},
      {"lr_scheduler", [](C& c) { c.lr_scheduler = "cosine_with_restarts"; }},
      {"lr_warmup_steps", [](C& c) { c.lr_warmup_steps = 7; }},
      {"snr_gamma", [](C& c) { c.snr_gamma = 5.0; }},
      {"noise_offset", [](C& c) { c.noise_offset = 0.1; }},
      {"input_perturbation", [](C& c) { c.input_perturbation = 0.1; }},
      {"mixed_precision", [](C& c) { c.mixed_precision = "bf16"; }},
      {"max_grad_norm", [](C& c) { c.max_grad_norm = 0.5; }},
      {"use_ema", ema([](C&) {})},
      {"ema_type", ema([](C& c) { c.ema_type = "lit_ema"; })},
      {"use_ema_warmup", ema([](C& c) { c.use_ema_warmup = false; })},
      {"ema_inv_gamma", ema([](C& c) { c.ema_inv_gamma = 2; })},
      {"ema_power", ema([](C& c) { c.ema_power = 0.5; })},
      {"ema_max_decay", ema([](C& c) { c.ema_max_decay = 0.9; })},
      {"ema_min_decay", ema([](C& c) { c.ema_min_decay = 0.1; })},
      {"ema_update_after_step", ema([](C& c) { c.ema_update_after_step = 1; })},
      {"adam_beta1", [](C& c) { c.adam_beta1 = 0.8; }},
      {"adam_beta2", [](C& c) { c.adam_beta2 = 0.9; }},
      {"adam_weight_decay", [](C& c) { c.adam_weight_decay = 0.1; }},
      {"adam_epsilon", [](C& c) { c.adam_epsilon = 1e-6; }},
      {"optimizer", [](C& c) { c.optimizer = "adam"; }},
      {"checkpointing_steps", [](C& c) { c.checkpointing_steps = 1; }},
      {"checkpoints_total_limit", [](C& c) { c.checkpoints_total_limit = 1; }},
      {"resume_from_checkpoint", [](C& c) { c.resume_from_checkpoint = "latest"; }},
      {"background_checkpoints", [](C& c) { c.background_checkpoints = false; }},
      {"validation_steps", [](C& c) { c.validation_steps = 1; }},
      {"logging_steps", [](C& c) { c.logging_steps = 1; }},
      {"progress_bar", [](C& c) { c.progress_bar = false; }},
      {"dataloader_num_workers", [](C& c) { c.dataloader_num_workers = 1; }},
      {"cpu_data_parallel", [](C& c) { c.cpu_data_parallel = 2; }},
      {"loss_type", huber([](C&) {})},
      {"huber_schedule", huber([](C& c) { c.huber_schedule = "snr"; })},
      {"huber_c", huber([](C& c) { c.huber_c = 0.2; })},
      {"logit_mean", [](C& c) { c.logit_mean = 1; }},
      {"logit_std", [](C& c) { c.logit_std = 2; }},
      {"mode_scale", [](C& c) { c.mode_scale = 1; }},
      {"timestep_bias_strategy", bias("later", [](C&) {})},
      {"timestep_bias_multiplier", bias("later", [](C& c) { c.timestep_bias_multiplier = 2; })},
      {"timestep_bias_begin", bias("range", [](C& c) { c.timestep_bias_begin = 5; })},
      {"timestep_bias_end", bias("range", [](C& c) { c.timestep_bias_end = 500; })},
      {"timestep_bias_portion", bias("later", [](C& c) { c.timestep_bias_portion = 0.5; })},
      {"train_only", [](C& c) { c.train_only = {"*"}; }},
      {"freeze", [](C& c) { c.freeze = {"conv_in.*"}; }},
      {"no_decay", [](C& c) { c.no_decay = {"*.bias"}; }},
      {"no_weight_decay_on_bias_and_norm", [](C& c) { c.no_weight_decay_on_bias_and_norm = true; }},
      {"lr_factors",
       [](C& c) {
         c.lr_factors = {{"*.bias", 0.5}};
       }},
      {"adam_amsgrad", [](C& c) { c.adam_amsgrad = true; }},
      {"sgd_momentum", sgd([](C&) {})},
      {"sgd_dampening", sgd([](C& c) { c.sgd_dampening = 0.1; })},
      {"sgd_nesterov", sgd([](C& c) { c.sgd_nesterov = true; })},
      {"adafactor_beta2_decay", adafactor([](C& c) { c.adafactor_beta2_decay = -0.5; })},
      {"adafactor_eps1", adafactor([](C& c) { c.adafactor_eps1 = 1e-5; })},
      {"adafactor_eps2", adafactor([](C& c) { c.adafactor_eps2 = 1e-2; })},
      {"adafactor_d", adafactor([](C& c) { c.adafactor_d = 2; })},
      {"post_hoc_ema_sigma_rels", [](C& c) { c.post_hoc_ema_sigma_rels = {0.1}; }},
      {"post_hoc_ema_steps",
       [](C& c) {
         c.post_hoc_ema_sigma_rels = {0.1};
         c.post_hoc_ema_steps = 2;
       }},
      {"tensorboard", [](C& c) { c.tensorboard = false; }},
      {"logging_dir", [](C& c) { c.logging_dir = "events"; }},
      {"report", [](C& c) { c.report = false; }},
      {"validation_samples", [](C& c) { c.validation_samples = 3; }},
      {"validation_bins", [](C& c) { c.validation_bins = 3; }},
      {"lr_num_cycles",
       [](C& c) {
         c.lr_scheduler = "cosine_with_restarts";
         c.lr_num_cycles = 2;
       }},
      {"lr_power",
       [](C& c) {
         c.lr_scheduler = "polynomial";
         c.lr_power = 2;
       }},
      {"lr_step_rules",
       [](C& c) {
         c.lr_scheduler = "piecewise_constant";
         c.lr_step_rules = "1:10,0.1";
       }},
      {"max_nonfinite_steps", [](C& c) { c.max_nonfinite_steps = 2; }},
      {"overwrite_output_dir", [](C& c) { c.overwrite_output_dir = true; }},
      {"deterministic", [](C& c) { c.deterministic = true; }},
      {"handle_signals", [](C& c) { c.handle_signals = true; }},
  };
}

Json fields_as_json(const TrainingConfig& config) { return parse_json(config.to_json(), "the config"); }

std::set<std::string> keys_of_update_options() {
  std::set<std::string> keys;
  for (const UpdateOption& option : update_options()) keys.insert(std::string(option.key));
  return keys;
}

/// What leaves a field to the config.
std::function<void(Update&)> taker_of(const std::string& key) {
  if (key == "max_grad_norm") return [](Update& update) { update.max_grad_norm.reset(); };
  if (key == "lr_warmup_steps") return [](Update& update) { update.lr_warmup_steps.reset(); };
  if (key.starts_with("lr_"))
    return [](Update& update) {
      update.lr_scheduler.reset();
      update.lr_warmup_steps = 0;
    };
  if (key.starts_with("no_")) return [](Update& update) { update.optimizer->weight_decay = 0.1; };
  return [](Update& update) { update.optimizer.reset(); };
}

TEST(UpdateOptions, AreRefusedByNameIfNoUpdateTakesThem) {
  const std::map<std::string, ConfigSetter> changes = changes_of_all_fields();
  const std::set<std::string> of_updates = keys_of_update_options();
  const Json defaults = fields_as_json({});
  for (const auto& item : defaults.items()) {
    const std::string& key = item.key();
    SCOPED_TRACE(key);
    ASSERT_TRUE(changes.contains(key)) << "give another value here, and say in update_options() whether the "
                                          "updates of a task may replace the field";
    TrainingConfig config;
    changes.at(key)(config);
    const Json given = fields_as_json(config);
    ASSERT_NE(given.at(key), defaults.at(key));
    const auto make = [&](const UpdatesFunction& updates) {
      return [=] { Trainer(std::make_shared<TwoNets>(updates), config); };
    };
    if (key == "fused_backward_pass") {
      expect_throws_with<ConfigError>(make(own_updates), R"(the task has the updates "first", "second")");
      continue;
    }
    if (!of_updates.contains(key)) {
      EXPECT_NO_THROW(make(own_updates)());
      continue;
    }
    const std::string message =
        key + " is " + given.at(key).dump() + R"(, but no update of the task ("first", "second") takes it: )";
    expect_throws_with<ConfigError>(make(own_updates), message);
    // One update that takes the field is enough.
    EXPECT_NO_THROW(make([](const TrainingConfig&) {
      return std::vector<Update>{{.name = "first", .modules = {"first"}},
                                 {.name = "second", .modules = {"second"}}};
    })());
    EXPECT_NO_THROW(make(taking(taker_of(key)))());
  }
  EXPECT_EQ(changes.size(), defaults.size());
  for (const std::string& key : of_updates) EXPECT_TRUE(defaults.contains(key)) << key << " is no field";
}

TEST(UpdateOptions, ResetTheirOwnFieldAlone) {
  const std::map<std::string, ConfigSetter> changes = changes_of_all_fields();
  TrainingConfig all;
  for (const auto& [key, change] : changes) change(all);
  const Json defaults = fields_as_json({});
  for (const UpdateOption& option : update_options()) {
    TrainingConfig reset = all;
    option.reset(reset);
    Json expected = fields_as_json(all);
    expected[std::string(option.key)] = defaults.at(std::string(option.key));
    EXPECT_EQ(fields_as_json(reset), expected) << option.key;
  }
}

TEST(UpdateOptions, AreTakenByATaskThatComputesItsOptimizerFromThem) {
  const UpdatesFunction scaled = [](const TrainingConfig& config) {
    std::vector<Update> updates = own_updates(config);
    updates[0].optimizer->lr = 10 * config.learning_rate;
    return updates;
  };
  EXPECT_NO_THROW(Trainer(std::make_shared<TwoNets>(scaled), {.learning_rate = 0.5}));
  expect_throws_with<ConfigError>(
      [&] { Trainer(std::make_shared<TwoNets>(scaled), {.learning_rate = 0.5, .adam_beta2 = 0.9}); },
      "adam_beta2 is 0.9, but no update of the task (\"first\", \"second\") takes it: each brings its own "
      "optimizer; leave it at its default, 0.999");
}

TEST(UpdateOptions, LetTheDefaultsOfScriptsPass) {
  const auto task = [] { return std::make_shared<TwoNets>(own_updates); };
  EXPECT_NO_THROW(Trainer(task(), {.lr_warmup_steps = 0, .adam_beta1 = 0.9}));
}

TEST(UpdateOptions, NeedAWeightDecayToLeaveOut) {
  const UpdatesFunction plain = [](const TrainingConfig&) { return std::vector<Update>{Update{}}; };
  expect_throws_with<ConfigError>(
      [&] { Trainer(std::make_shared<TwoNets>(plain), {.adam_weight_decay = 0, .no_decay = {"*.bias"}}); },
      "no_decay is [\"*.bias\"], but no update of the task takes it: none has a weight decay above 0");
  EXPECT_NO_THROW(
      Trainer(std::make_shared<TwoNets>(plain), {.adam_weight_decay = 0.1, .no_decay = {"*.bias"}}));
  // A pattern of parameters that are not trained.
  expect_throws_with<ConfigError>(
      [&] {
        Trainer(std::make_shared<TwoNets>(plain), {.freeze = {"conv_in.*"}, .no_decay = {"conv_in.bias"}});
      },
      "no_decay has the pattern \"conv_in.bias\", which fits none of 10 trained parameters");
}

TEST(UpdateOptions, OfAveragesNeedAModuleThatIsAveraged) {
  const auto task = [] { return std::make_shared<TwoNets>(own_updates, /*is_averaged=*/false); };
  EXPECT_NO_THROW(Trainer(task(), {}));
  expect_throws_with<ConfigError>([&] { Trainer(task(), {.use_ema = true}); },
                                  "use_ema is true, but the task averages none of its 2 modules");
  expect_throws_with<ConfigError>([&] { Trainer(task(), {.post_hoc_ema_sigma_rels = {0.1}}); },
                                  "post_hoc_ema_sigma_rels has 1 widths, but the task averages none");
}

TEST(UpdateOptions, TellOfAnUpdateThatNeverRuns) {
  const TemporaryFolder folder;
  const LogCapture log;
  TrainingConfig config;
  config.output_dir = folder.path();
  config.max_train_steps = 2;
  config.progress_bar = false;
  const auto late = taking([](Update& update) { update.start_step = 2; });
  Trainer(std::make_shared<TwoNets>(late), config).train(TinyImages(8));
  EXPECT_TRUE(log.contains("the update \"second\" begins at step 2, and the training has 2 steps"));
  EXPECT_FALSE(log.contains("the update \"first\""));
}

}  // namespace
}  // namespace diffusers
