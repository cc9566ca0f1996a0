// The pieces that a training loop is made of: averages, learning rates, optimizers, gradient clipping and
// scaling.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <diffusers/training/ema.h>
#include <diffusers/training/lr_scheduler.h>
#include <diffusers/training/optimizer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;

Tensor parameter(const Tensor& value) { return value.clone().requires_grad_(); }

EMAModelConfig ema_config_from(const Json& json) {
  const EMAModelConfig defaults;
  return {.decay = json.value("decay", defaults.decay),
          .min_decay = json.value("min_decay", defaults.min_decay),
          .update_after_step = json.value("update_after_step", defaults.update_after_step),
          .use_ema_warmup = json.value("use_ema_warmup", defaults.use_ema_warmup),
          .inv_gamma = json.value("inv_gamma", defaults.inv_gamma),
          .power = json.value("power", defaults.power)};
}

TEST(EMAModel, FollowsPythonOverFiftyUpdates) {
  const test::Golden golden = test::load_golden("training_ema.safetensors");
  const Json configs = parse_json(golden.metadata.at("configs"), "configs");
  for (std::size_t number = 0; number < configs.size(); ++number) {
    const std::string prefix = std::to_string(number) + ".";
    const Tensor a = parameter(golden["values.a"][0]);
    const Tensor b = golden["values.b"][0].clone().requires_grad_(number != 1);
    EMAModel ema({a, b}, ema_config_from(configs.at(number)));
    for (int64_t step = 1; step <= 50; ++step) {
      a.detach().copy_(golden["values.a"][step]);
      b.detach().copy_(golden["values.b"][step]);
      ema.step({a, b});
      EXPECT_DOUBLE_EQ(ema.cur_decay_value(), golden[prefix + "decay"][step - 1].item<double>());
      EXPECT_DOUBLE_EQ(ema.get_decay(step), ema.cur_decay_value());
      expect_close(ema.shadow_params()[0], golden[prefix + "a"][step - 1], 1e-6, 1e-6);
      expect_close(ema.shadow_params()[1], golden[prefix + "b"][step - 1], 1e-6, 1e-6);
    }
    EXPECT_EQ(ema.optimization_step(), 50);
  }
}

TEST(EMAModel, StoresCopiesAndRestores) {
  const Tensor a = parameter(at::ones({3}));
  EMAModel ema({a}, {.decay = 0.5});
  a.detach().fill_(2);
  ema.store({a});
  ema.copy_to({a});
  expect_equal(a.detach(), at::ones({3}));
  ema.restore({a});
  expect_equal(a.detach(), at::full({3}, 2.0));
  expect_throws_with<Error>([&] { ema.restore({a}); }, "store()");
}

TEST(EMAModel, ContinuesFromASavedState) {
  const Tensor a = parameter(at::randn({4}));
  EMAModel first({a}, {.use_ema_warmup = true});
  for (int i = 0; i < 5; ++i) {
    a.detach().add_(1);
    first.step({a});
  }
  EMAModel second({a});
  second.load_state(first.state());
  second.load_shadow_params(first.shadow_params());
  a.detach().mul_(3);
  first.step({a});
  second.step({a});
  expect_equal(second.shadow_params()[0], first.shadow_params()[0]);
  EXPECT_EQ(second.cur_decay_value(), first.cur_decay_value());
}

TEST(EMAModel, RefusesOtherParameters) {
  EMAModel ema({at::ones({2})});
  expect_throws_with<TensorError>([&] { ema.step({at::ones({3})}); }, "[3]");
  expect_throws_with<TensorError>([&] { ema.step({}); }, "0 parameters");
  expect_throws_with<ConfigError>([] { EMAModel({at::ones({2})}, {.decay = 1.5}); }, "decay is 1.5");
  expect_throws_with<ConfigError>([] { EMAModel({at::ones({2})}, {.inv_gamma = 0}); }, "inv_gamma is 0");
}

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

OptimizerConfig optimizer_config_from(const Json& json) {
  OptimizerConfig config;
  config.type = enum_from_name<OptimizerType>(json.at("type").get<std::string>(), "type");
  config.lr = json.at("lr").get<double>();
  config.weight_decay = json.at("weight_decay").get<double>();
  config.beta1 = json.value("beta1", config.beta1);
  config.beta2 = json.value("beta2", config.beta2);
  config.eps = json.value("eps", config.eps);
  config.amsgrad = json.value("amsgrad", false);
  config.momentum = json.value("momentum", 0.0);
  config.dampening = json.value("dampening", 0.0);
  config.nesterov = json.value("nesterov", false);
  return config;
}

// Every case over 20 steps, in one piece and saved and loaded at step 11.
TEST(Optimizer, MatchesTorchOptim) {
  const test::Golden golden = test::load_golden("training_optimizer.safetensors");
  const Json cases = parse_json(golden.metadata.at("cases"), "cases").at("optimizers");
  for (const bool reload : {false, true}) {
    for (std::size_t number = 0; number < cases.size(); ++number) {
      const OptimizerConfig config = optimizer_config_from(cases.at(number));
      const std::string prefix = std::to_string(number) + ".";
      Tensor a = parameter(golden["start.a"]);
      Tensor b = parameter(golden["start.b"]);
      const std::vector<ParameterGroup> groups{{.params = {a}},
                                               {.params = {b}, .lr = 5e-3, .weight_decay = 0.1}};
      Optimizer optimizer(groups, config);
      for (int64_t step = 0; step < 20; ++step) {
        if (reload && step == 11) {
          Optimizer loaded(groups, config);
          loaded.load_state_dict(optimizer.state_dict());
          optimizer = std::move(loaded);
        }
        a.mutable_grad() = golden["grads.a"][step].clone();
        if (step >= 3) b.mutable_grad() = golden["grads.b"][step].clone();
        optimizer.step(1.0 / static_cast<double>(1 + step));
        optimizer.zero_grad();
        EXPECT_FALSE(a.grad().defined());
        const std::string label = cases.at(number).dump() + " step " + std::to_string(step);
        expect_close(a.detach(), golden[prefix + "a"][step], 1e-6, 1e-6, label);
        expect_close(b.detach(), golden[prefix + "b"][step], 1e-6, 1e-6, label);
      }
    }
  }
}

TEST(Optimizer, SkipsAStepWhereFoundInfSaysSo) {
  Tensor a = parameter(at::ones({3}));
  Optimizer optimizer(std::vector<Tensor>{a});
  a.mutable_grad() = at::ones({3});
  optimizer.step();
  const Tensor before = a.detach().clone();
  const Tensor moment = optimizer.state_dict().at("0.exp_avg").clone();
  a.mutable_grad() = at::full({3}, std::nan(""));
  optimizer.step(1.0, at::ones({1}));
  expect_equal(a.detach(), before);
  expect_equal(optimizer.state_dict().at("0.exp_avg"), moment);
  EXPECT_EQ(optimizer.state_dict().at("0.step").item<float>(), 1.0F);
  a.mutable_grad() = at::ones({3});
  optimizer.step(1.0, at::zeros({1}));
  EXPECT_EQ(optimizer.state_dict().at("0.step").item<float>(), 2.0F);
  EXPECT_FALSE(at::equal(a.detach(), before));
}

TEST(Optimizer, RefusesForeignStatesAndSenselessOptions) {
  Optimizer optimizer(std::vector<Tensor>{parameter(at::ones({3}))});
  expect_throws_with<TensorError>([&] { optimizer.load_state_dict({{"7.step", at::zeros({})}}); }, "1 of 1");
  expect_throws_with<TensorError>(
      [&] {
        optimizer.load_state_dict({{"0.step", at::zeros({})}});
      },
      "0.exp_avg");
  expect_throws_with<ConfigError>([] { Optimizer(std::vector<Tensor>{at::ones({3})}, {.lr = -1}); },
                                  "lr is -1");
  expect_throws_with<ConfigError>([] { Optimizer(std::vector<Tensor>{at::ones({3})}, {.beta1 = 1}); },
                                  "beta1 is 1");
  expect_throws_with<ConfigError>([] { Optimizer(std::vector<Tensor>{}); }, "no parameters");
}

TEST(ClipGradNorm, MatchesTorch) {
  const test::Golden golden = test::load_golden("training_optimizer.safetensors");
  const Json clips = parse_json(golden.metadata.at("cases"), "cases").at("clips");
  for (std::size_t number = 0; number < clips.size(); ++number) {
    const Json& norm_type = clips.at(number).at("norm_type");
    Tensor a = parameter(golden["start.a"]);
    Tensor b = parameter(golden["start.b"]);
    a.mutable_grad() = golden["grads.a"][0].clone();
    b.mutable_grad() = golden["grads.b"][0].clone();
    const Tensor norm = clip_grad_norm_(
        {a, b, parameter(at::ones({2}))}, clips.at(number).at("max_norm").get<double>(),
        norm_type.is_string() ? std::numeric_limits<double>::infinity() : norm_type.get<double>());
    const std::string prefix = "clip." + std::to_string(number) + ".";
    expect_close(norm, golden[prefix + "norm"], 1e-6, 0);
    expect_close(a.grad(), golden[prefix + "a"], 1e-6, 1e-7);
    expect_close(b.grad(), golden[prefix + "b"], 1e-6, 1e-7);
  }
}

TEST(GradScaler, SkipsAndGrowsAsTorchs) {
  const test::Golden golden = test::load_golden("training_optimizer.safetensors");
  Tensor a = parameter(at::ones({3}));
  Optimizer optimizer(std::vector<Tensor>{a}, {.type = OptimizerType::kSGD, .lr = 0.1, .weight_decay = 0.0});
  GradScaler scaler(at::kCPU, {.init_scale = 1024.0, .growth_interval = 3});
  for (int64_t step = 0; step < 14; ++step) {
    optimizer.zero_grad();
    const bool overflows = step == 2 || step == 9;
    scaler.scale((a * at::tensor({1.0F, 2.0F, overflows ? HUGE_VALF : 3.0F})).sum()).backward();
    const Tensor found_inf = scaler.unscale_({a});
    optimizer.step(1.0, found_inf);
    scaler.update(found_inf);
    EXPECT_EQ(scaler.get_scale().item<double>(), golden["scaler.scale"][step].item<double>())
        << "step " << step;
    expect_close(a.detach(), golden["scaler.parameter"][step], 1e-6, 1e-6);
  }
}

}  // namespace
}  // namespace diffusers
