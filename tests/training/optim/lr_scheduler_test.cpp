// Learning rate schedules, and the scheduler that applies them to an optimizer.

#include <cmath>
#include <string>
#include <vector>

#include <diffusers/training/lr_scheduler.h>
#include <diffusers/training/optimizer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;

TEST(GetScheduler, MatchesPython) {
  const test::Golden golden = test::load_golden("training_lr.safetensors");
  const Json cases = parse_json(golden.metadata.at("cases"), "cases");
  for (std::size_t number = 0; number < cases.size(); ++number) {
    const Json& one = cases.at(number);
    LRSchedulerOptions options;
    options.step_rules = one.value("step_rules", "");
    if (one.contains("num_warmup_steps"))
      options.num_warmup_steps = one.at("num_warmup_steps").get<int64_t>();
    if (one.contains("num_training_steps"))
      options.num_training_steps = one.at("num_training_steps").get<int64_t>();
    options.num_cycles = one.value("num_cycles", int64_t{1});
    options.power = one.value("power", 1.0);
    options.lr_init = one.value("lr_init", 1e-3);
    const LRSchedule schedule = get_scheduler(one.at("name").get<std::string>(), options);
    const Tensor expected = golden[std::to_string(number)];
    for (int64_t step = 0; step < expected.size(0); ++step)
      EXPECT_NEAR(schedule(step), expected[step].item<double>(), 1e-12) << one.dump() << " at step " << step;
  }
}

TEST(GetScheduler, NamesWhatIsMissing) {
  expect_throws_with<ConfigError>([] { get_scheduler("cosinus"); }, "\"cosinus\"");
  expect_throws_with<ConfigError>([] { get_scheduler("cosine"); }, "num_warmup_steps");
  expect_throws_with<ConfigError>([] { get_scheduler("linear", {.num_warmup_steps = 1}); },
                                  "num_training_steps");
  expect_throws_with<ConfigError>([] { get_scheduler("piecewise_constant"); }, "step_rules");
  expect_throws_with<ConfigError>([] { get_scheduler("piecewise_constant", {.step_rules = "1:x,2"}); },
                                  "\"x\"");
  expect_throws_with<ConfigError>(
      [] { get_scheduler("polynomial", {.num_warmup_steps = 0, .num_training_steps = 9, .lr_init = 1e-8}); },
      "learning_rate is 1e-08");
}

/// Returns two groups with learning rates of 0.1 and 0.02.
std::vector<ParameterGroup> two_rates() {
  return {{.params = {at::ones({2}).requires_grad_()}},
          {.params = {at::ones({3}).requires_grad_()}, .lr = 0.04, .lr_factor = 0.5}};
}

void step_with_ones(Optimizer& optimizer, double lr_factor = 1.0) {
  for (const ParameterGroup& group : optimizer.param_groups())
    for (const Tensor& parameter : group.params) parameter.mutable_grad() = at::ones_like(parameter);
  optimizer.step(lr_factor);
}

TEST(LRScheduler, StepsAsTheFactorsDo) {
  const OptimizerConfig config{.lr = 0.1};
  for (const char* name : {"constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts",
                           "polynomial", "piecewise_constant"}) {
    const LRSchedulerOptions options{.step_rules = "1:3,0.5:6,0.1",
                                     .num_warmup_steps = 3,
                                     .num_training_steps = 10,
                                     .num_cycles = 2,
                                     .power = 2.0};
    LRSchedulerOptions with_lr = options;
    with_lr.lr_init = 0.1;
    const LRSchedule factors = get_scheduler(name, with_lr);
    Optimizer by_factor(two_rates(), config);
    Optimizer optimizer(two_rates(), config);
    LRScheduler scheduler = get_scheduler(name, optimizer, options);
    for (int64_t step = 0; step < 12; ++step) {
      EXPECT_EQ(scheduler.last_epoch(), step);
      EXPECT_EQ(scheduler.get_last_lr(), (std::vector<double>{0.1 * factors(step), 0.02 * factors(step)}));
      EXPECT_EQ(optimizer.lr(1), 0.02 * factors(step)) << name << " step " << step;
      step_with_ones(optimizer);
      step_with_ones(by_factor, factors(step));
      for (const std::size_t group : {0U, 1U})
        expect_equal(optimizer.param_groups()[group].params[0].detach(),
                     by_factor.param_groups()[group].params[0].detach(), name);
      scheduler.step();
    }
  }
}

TEST(LRScheduler, ContinuesFromASavedState) {
  Optimizer optimizer(two_rates(), {.lr = 0.1});
  const LRSchedulerOptions options{.num_warmup_steps = 2, .num_training_steps = 10};
  LRScheduler scheduler = get_scheduler("cosine", optimizer, options);
  for (int step = 0; step < 5; ++step) scheduler.step();
  const TensorMap state = scheduler.state_dict();
  EXPECT_EQ(state.keys(), (std::vector<std::string>{"last_epoch", "base_lrs"}));

  // The base learning rates are loaded from the state.
  Optimizer other(two_rates(), {.lr = 0.7});
  LRScheduler loaded = get_scheduler("cosine", other, options);
  loaded.load_state_dict(state);
  EXPECT_EQ(loaded.last_epoch(), 5);
  EXPECT_EQ(loaded.get_last_lr(), scheduler.get_last_lr());
  EXPECT_EQ(other.lr(), optimizer.lr());
  loaded.step();
  scheduler.step();
  EXPECT_EQ(loaded.get_last_lr(), scheduler.get_last_lr());

  const auto refuses = [&](const char* name, const Tensor& value, const char* message) {
    TensorMap bad = state;
    bad.insert(name, value);
    expect_throws_with<TensorError>([&] { loaded.load_state_dict(bad); }, message);
  };
  refuses("last_epoch", at::full({}, -1, at::kLong), "\"last_epoch\" is -1");
  refuses("last_epoch", at::full({}, 5.0), "\"last_epoch\" is float32");
  refuses("base_lrs", at::ones({3}, at::kDouble), "\"base_lrs\" is float64 [3]");
  refuses("base_lrs", at::full({2}, std::nan(""), at::kDouble), "\"base_lrs\" holds nan");
  TensorMap less = state;
  less.erase("base_lrs");
  expect_throws_with<TensorError>([&] { loaded.load_state_dict(less); }, "lacks \"base_lrs\"");
  EXPECT_EQ(loaded.last_epoch(), 6);
}

TEST(LRScheduler, RefusesWhatNoLearningRateCanBe) {
  Optimizer optimizer(two_rates(), {.lr = 0.1});
  expect_throws_with<ConfigError>(
      [&] {
        get_scheduler("polynomial", optimizer,
                      {.num_warmup_steps = 0, .num_training_steps = 9, .lr_init = 0.2});
      },
      "lr_init is 0.2, but the learning rate of the optimizer is 0.1");
  expect_throws_with<ConfigError>([&] { LRScheduler(optimizer, {}); }, "the schedule is empty");
  expect_throws_with<ConfigError>([&] { LRScheduler(optimizer, [](int64_t) { return -1.0; }); }, "lr of a");
  expect_throws_with<ConfigError>([&] { get_scheduler("cosine", optimizer); }, "num_warmup_steps");
}

}  // namespace
}  // namespace diffusers
