// The TrainingConfig's options of the optimizer and its parameter groups.

#include "training/loop/trained_parameters.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_equal;
using test::expect_throws_with;
using test::quiet_config;
using test::seeded_net;
using test::TemporaryFolder;
using test::TinyImages;
using test::TinyNet;

TEST(OptimizerOptions, AreThoseOfTheFlags) {
  const OptimizerConfig adam = optimizer_config({.learning_rate = 0.5,
                                                 .adam_beta1 = 0.8,
                                                 .adam_beta2 = 0.7,
                                                 .adam_weight_decay = 0.6,
                                                 .adam_epsilon = 1e-3,
                                                 .optimizer = "adam",
                                                 .adam_amsgrad = true});
  EXPECT_EQ(adam.type, OptimizerType::kAdam);
  EXPECT_EQ(adam.lr, 0.5);
  EXPECT_EQ(adam.beta1, 0.8);
  EXPECT_EQ(adam.beta2, 0.7);
  EXPECT_EQ(adam.weight_decay, 0.6);
  EXPECT_EQ(adam.eps, 1e-3);
  EXPECT_TRUE(adam.amsgrad);
  const OptimizerConfig lion = optimizer_config({.adam_beta1 = 0.8, .adam_beta2 = 0.7, .optimizer = "lion"});
  EXPECT_EQ(lion.beta1, 0.8);
  EXPECT_EQ(lion.beta2, 0.7);
  const OptimizerConfig sgd =
      optimizer_config({.optimizer = "sgd", .sgd_momentum = 0.9, .sgd_dampening = 0.3, .sgd_nesterov = true});
  EXPECT_EQ(sgd.momentum, 0.9);
  EXPECT_EQ(sgd.dampening, 0.3);
  EXPECT_TRUE(sgd.nesterov);
  const OptimizerConfig adafactor = optimizer_config({.optimizer = "adafactor",
                                                      .adafactor_beta2_decay = -0.5,
                                                      .adafactor_eps1 = 1e-5,
                                                      .adafactor_eps2 = 1e-2,
                                                      .adafactor_d = 2.0});
  EXPECT_EQ(adafactor.beta2_decay, -0.5);
  EXPECT_EQ(adafactor.eps1, 1e-5);
  EXPECT_EQ(adafactor.eps2, 1e-2);
  EXPECT_EQ(adafactor.d, 2.0);
}

/// Returns the weights after a short training.
std::vector<Tensor> trained_weights(const std::function<void(TrainingConfig&)>& change) {
  const TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  change(config);
  TinyNet model = seeded_net();
  Trainer(model, DDPMScheduler(), config).train(TinyImages(20));
  return copies(model->parameters());
}

TEST(OptimizerOptions, ChangeTheTraining) {
  const auto expect_change = [](const std::vector<Tensor>& base,
                                const std::function<void(TrainingConfig&)>& change, const char* label) {
    EXPECT_FALSE(at::equal(trained_weights(change)[0], base[0])) << label;
  };
  // With a small beta2 the second moment decreases in some steps.
  const auto short_memory = [](TrainingConfig& c) { c.adam_beta2 = 0.1; };
  const auto adamw = trained_weights(short_memory);
  expect_change(
      adamw, [&](TrainingConfig& c) { short_memory(c), c.adam_amsgrad = true; }, "adam_amsgrad");
  const auto momentum = [](TrainingConfig& c) {
    c.optimizer = "sgd";
    c.sgd_momentum = 0.9;
  };
  const auto sgd = trained_weights(momentum);
  expect_change(
      sgd, [&](TrainingConfig& c) { momentum(c), c.sgd_dampening = 0.5; }, "sgd_dampening");
  expect_change(
      sgd, [&](TrainingConfig& c) { momentum(c), c.sgd_nesterov = true; }, "sgd_nesterov");
  const auto type = [](TrainingConfig& c) { c.optimizer = "adafactor"; };
  const auto adafactor = trained_weights(type);
  const auto expect_of_adafactor = [&](const std::function<void(TrainingConfig&)>& change,
                                       const char* label) {
    expect_change(
        adafactor, [&](TrainingConfig& c) { type(c), change(c); }, label);
  };
  expect_of_adafactor([](TrainingConfig& c) { c.adafactor_beta2_decay = -0.3; }, "adafactor_beta2_decay");
  expect_of_adafactor([](TrainingConfig& c) { c.adafactor_eps1 = 1.0; }, "adafactor_eps1");
  expect_of_adafactor([](TrainingConfig& c) { c.adafactor_eps2 = 10.0; }, "adafactor_eps2");
  expect_of_adafactor([](TrainingConfig& c) { c.adafactor_d = 3.0; }, "adafactor_d");
}

TEST(OptimizerOptions, AreRefusedOutOfRange) {
  const auto refuses = [](const TrainingConfig& config, const char* message) {
    expect_throws_with<ConfigError>([&] { config.validate(); }, message);
  };
  refuses({.optimizer = "sgd", .sgd_nesterov = true}, "sgd_nesterov is true, but sgd_momentum is 0");
  refuses({.optimizer = "sgd", .sgd_momentum = 0.9, .sgd_dampening = std::nan("")}, "sgd_dampening is nan");
  refuses({.optimizer = "adafactor", .adafactor_beta2_decay = 0.8}, "adafactor_beta2_decay is 0.8");
  refuses({.optimizer = "adafactor", .adafactor_eps1 = -1.0}, "adafactor_eps1 is -1");
  refuses({.optimizer = "adafactor", .adafactor_eps2 = -1.0}, "adafactor_eps2 is -1");
  refuses({.optimizer = "adafactor", .adafactor_d = 0.5}, "adafactor_d is 0.5");
  refuses({.lr_factors = {{"*.bias", -1.0}}}, "lr_factors: the factor of \"*.bias\" is -1");
}

TEST(LearningRateFactors, ApplyByName) {
  const TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.optimizer = "sgd";
  config.lr_factors = {{"*.weight", 0.5}, {"conv_in.*", 0.0}, {"conv_in.bias", 2.0}};
  TinyNet model = seeded_net();
  const std::vector<Tensor> start = copies(model->parameters());
  Trainer trainer(model, DDPMScheduler(), config);
  trainer.train(TinyImages(4));
  std::size_t count = 0;
  for (std::size_t group = 0; group < trainer.optimizer()->param_groups().size(); ++group)
    for (const std::string& name : trainer.optimizer()->param_groups()[group].names) {
      const double expected = name == "conv_in.weight"    ? 0.0
                              : name == "conv_in.bias"    ? 2.0
                              : name.ends_with(".weight") ? 0.5
                                                          : 1.0;
      EXPECT_DOUBLE_EQ(trainer.optimizer()->lr(group), 1e-2 * expected) << name;
      ++count;
    }
  EXPECT_EQ(count, start.size());
  expect_equal(model->conv_in->weight.detach(), start[0]);
  EXPECT_FALSE(at::equal(model->conv_in->bias.detach(), start[1]));
}

TEST(LearningRateFactors, NameAPatternThatFitsNothingTrained) {
  const TemporaryFolder folder;
  const auto refuses = [&](const std::function<void(TrainingConfig&)>& change, const char* message) {
    TrainingConfig config = quiet_config(folder.path());
    change(config);
    expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config); }, message);
  };
  refuses(
      [](TrainingConfig& c) {
        c.lr_factors = {{"conv_inn.*", 0.1}};
      },
      "lr_factors has the pattern \"conv_inn.*\", which fits none of 6 trained parameters");
  refuses(
      [](TrainingConfig& c) {
        c.freeze = {"time.*"};
        c.lr_factors = {{"time.*", 0.1}};
      },
      "which fits none of 4 trained parameters");
}

}  // namespace
}  // namespace diffusers
