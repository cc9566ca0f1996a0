// Optimizers against torch.optim and the formulas of their papers, in float32 and float64.

#include <cmath>
#include <string>
#include <vector>

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

const std::vector<std::string> kNames{"matrix", "vector", "kernel", "scalar"};

OptimizerConfig config_of(const Json& json) {
  OptimizerConfig config =
      default_optimizer_config(enum_from_name<OptimizerType>(json.at("type").get<std::string>(), "type"));
  config.lr = json.at("lr").get<double>();
  config.weight_decay = json.at("weight_decay").get<double>();
  config.beta1 = json.value("beta1", config.beta1);
  config.beta2 = json.value("beta2", config.beta2);
  config.amsgrad = json.value("amsgrad", false);
  config.eps = json.value("eps", config.eps);
  config.momentum = json.value("momentum", 0.0);
  config.dampening = json.value("dampening", 0.0);
  config.nesterov = json.value("nesterov", false);
  config.beta2_decay = json.value("beta2_decay", config.beta2_decay);
  if (json.contains("eps1")) config.eps1 = json.at("eps1").get<double>();
  config.eps2 = json.value("eps2", config.eps2);
  config.d = json.value("d", config.d);
  return config;
}

Tensor trained(const Tensor& value, at::ScalarType dtype = at::kFloat) {
  return value.to(dtype, false, true).requires_grad_();
}

/// The optimizer of a case of the golden file and its parameters, in the order of kNames.
struct GoldenRun {
  GoldenRun(const test::Golden& values, const Json& one)
      : golden(values),
        dtype(one.at("dtype") == "float64" ? at::kDouble : at::kFloat),
        params{trained(golden["start.matrix"], dtype), trained(golden["start.vector"], dtype),
               trained(golden["start.kernel"], dtype), trained(golden["start.scalar"], dtype)},
        optimizer(groups(), config_of(one)) {}

  std::vector<ParameterGroup> groups() const {
    return {{.params = {params[0], params[1]}},
            {.params = {params[2], params[3]}, .lr = 5e-3, .weight_decay = 0.1}};
  }

  void step(int64_t step) {
    for (std::size_t i = 0; i < params.size(); ++i)
      if (i < 2 || step >= 3) params[i].mutable_grad() = golden["grads." + kNames[i]][step].to(dtype);
    optimizer.step(1 / (1 + 0.1 * static_cast<double>(step)));
  }

  const test::Golden& golden;
  at::ScalarType dtype;
  std::vector<Tensor> params;
  Optimizer optimizer;
};

test::Golden more_golden() { return test::load_golden("training_optimizers_more.safetensors"); }
Json cases_of(const test::Golden& golden) { return parse_json(golden.metadata.at("cases"), "cases"); }

void expect_like_python(const Tensor& actual, const Tensor& expected, at::ScalarType dtype,
                        const std::string& label) {
  const double rtol = dtype == at::kDouble ? 1e-10 : 1e-5;
  expect_close(actual, expected, rtol, 0.1 * rtol * expected.abs().max().item<double>(), label);
}

// Runs every case for 20 steps, once without interruption and once saved and loaded at step 11.
TEST(Optimizer, MatchesTorchOptim) {
  const test::Golden golden = test::load_golden("training_optimizer.safetensors");
  const Json cases = parse_json(golden.metadata.at("cases"), "cases").at("optimizers");
  for (const bool reload : {false, true}) {
    for (std::size_t number = 0; number < cases.size(); ++number) {
      const OptimizerConfig config = config_of(cases.at(number));
      const std::string prefix = std::to_string(number) + ".";
      Tensor a = trained(golden["start.a"]);
      Tensor b = trained(golden["start.b"]);
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
  Tensor a = trained(at::ones({3}));
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
  Optimizer optimizer(std::vector<Tensor>{trained(at::ones({3}))});
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

TEST(Optimizer, MatchesTorchOptimInBothPrecisions) {
  const test::Golden golden = more_golden();
  const Json cases = cases_of(golden);
  ASSERT_EQ(cases.size(), 12U);
  for (std::size_t number = 0; number < cases.size(); ++number) {
    GoldenRun run(golden, cases.at(number));
    for (int64_t step = 0; step < 20; ++step) {
      run.step(step);
      for (std::size_t i = 0; i < kNames.size(); ++i) {
        const Tensor& path = golden[std::to_string(number) + "." + kNames[i]];
        if (path.size(0) == 1 && step < 19) continue;
        expect_like_python(run.params[i], path[path.size(0) == 1 ? 0 : step], run.dtype,
                           cases.at(number).dump() + " " + kNames[i] + " step " + std::to_string(step));
      }
    }
    // The state is equal, too: names, shapes and values.
    std::size_t entries = 0;
    for (std::size_t i = 0; i < kNames.size(); ++i) {
      const std::string prefix = std::to_string(number) + ".state." + kNames[i] + ".";
      for (const auto& [name, expected] : golden.tensors) {
        if (!name.starts_with(prefix)) continue;
        const std::string key = std::to_string(i) + "." + name.substr(prefix.size());
        expect_like_python(run.optimizer.state_dict().at(key), expected, run.dtype, name);
        ++entries;
      }
    }
    EXPECT_EQ(run.optimizer.state_dict().size(), entries) << cases.at(number).dump();
  }
}

TEST(Optimizer, GoesOnExactlyFromALoadedState) {
  const test::Golden golden = more_golden();
  const Json cases = cases_of(golden);
  for (const Json& one_case : cases) {
    GoldenRun whole(golden, one_case);
    GoldenRun parts(golden, one_case);
    for (int64_t step = 0; step < 20; ++step) {
      whole.step(step);
      // Before and after the second group has gradients.
      if (step == 2 || step == 11) {
        Optimizer loaded(parts.groups(), parts.optimizer.config());
        loaded.load_state_dict(parts.optimizer.state_dict());
        parts.optimizer = std::move(loaded);
      }
      parts.step(step);
    }
    for (std::size_t i = 0; i < kNames.size(); ++i)
      expect_equal(parts.params[i].detach(), whole.params[i].detach(), one_case.dump());
  }
}

TEST(Optimizer, SkippedStepsLeaveNoTraceInAnyType) {
  const test::Golden golden = more_golden();
  const Json cases = cases_of(golden);
  for (const Json& one_case : cases) {
    GoldenRun skipping(golden, one_case);
    GoldenRun plain(golden, one_case);
    for (int64_t step = 0; step < 6; ++step) {
      skipping.step(step);
      plain.step(step);
      for (const Tensor& parameter : skipping.params)
        parameter.mutable_grad() = at::full_like(parameter, step % 2 == 0 ? std::nan("") : HUGE_VAL);
      // A skipped first step creates the state of the second group, which must be zero.
      skipping.optimizer.step(1.0, at::ones({1}));
      for (const Tensor& parameter : skipping.params) parameter.mutable_grad() = Tensor();
    }
    for (std::size_t i = 0; i < kNames.size(); ++i)
      expect_equal(skipping.params[i].detach(), plain.params[i].detach(), one_case.dump());
    for (const auto& [name, tensor] : plain.optimizer.state_dict())
      expect_equal(skipping.optimizer.state_dict().at(name), tensor, one_case.dump() + name);
  }
}

TEST(Optimizer, AStepThatIsNotSkippedIsTheSameStep) {
  const test::Golden golden = more_golden();
  const Json cases = cases_of(golden);
  for (const Json& one_case : cases) {
    GoldenRun with(golden, one_case);
    GoldenRun without(golden, one_case);
    for (std::size_t i = 0; i < kNames.size(); ++i)
      for (GoldenRun* run : {&with, &without})
        run->params[i].mutable_grad() = golden["grads." + kNames[i]][0].to(run->dtype);
    with.optimizer.step(1.0, at::zeros({1}));
    without.optimizer.step();
    for (std::size_t i = 0; i < kNames.size(); ++i)
      expect_close(with.params[i], without.params[i], 1e-6, 1e-12, one_case.dump());
  }
}

TEST(Optimizer, UpdatesOneParameterAsAStepUpdatesAll) {
  for (const OptimizerType type :
       {OptimizerType::kAdamW, OptimizerType::kSGD, OptimizerType::kLion, OptimizerType::kAdafactor}) {
    SCOPED_TRACE(static_cast<int>(type));
    std::vector<std::vector<Tensor>> results;
    for (const bool is_single : {false, true}) {
      at::manual_seed(4);
      std::vector<ParameterGroup> groups(2);
      groups[0].params = {trained(at::randn({7, 5})), trained(at::randn({5}), at::kDouble)};
      groups[1] = {.params = {trained(at::randn({3, 2}))}, .lr_factor = 0.5};
      Optimizer optimizer(groups, default_optimizer_config(type));
      for (int step = 0; step < 3; ++step) {
        for (const ParameterGroup& group : groups)
          for (const Tensor& parameter : group.params) parameter.mutable_grad() = at::randn_like(parameter);
        if (is_single) {
          optimizer.step_parameter(groups[1].params[0], 0.5);
          optimizer.step_parameter(groups[0].params[1], 0.5);
          optimizer.step_parameter(groups[0].params[0], 0.5);
        } else {
          optimizer.step(0.5);
        }
      }
      results.push_back({groups[0].params[0], groups[0].params[1], groups[1].params[0]});
    }
    for (std::size_t i = 0; i < 3; ++i) expect_equal(results[1][i].detach(), results[0][i].detach());
  }
}

TEST(Optimizer, LeavesTheOtherParametersOfASingleUpdate) {
  const Tensor a = trained(at::ones({2}));
  const Tensor b = trained(at::ones({2}));
  Optimizer optimizer({a, b}, {.type = OptimizerType::kSGD, .lr = 1.0, .weight_decay = 0.0});
  a.mutable_grad() = at::ones({2});
  b.mutable_grad() = at::ones({2});
  optimizer.step_parameter(b);
  expect_equal(a.detach(), at::ones({2}));
  expect_equal(b.detach(), at::zeros({2}));
  optimizer.step_parameter(a, 1.0, at::ones({1}));  // skipped
  expect_equal(a.detach(), at::ones({2}));
  a.mutable_grad().reset();
  optimizer.step_parameter(a);  // without a gradient
  expect_equal(a.detach(), at::ones({2}));
  expect_throws_with<TensorError>(
      [&] { optimizer.step_parameter(trained(at::ones({3}))); },
      "Optimizer::step_parameter: the parameter is float32 [3] on cpu; expected one of the optimizer's 2");
  expect_throws_with<TensorError>([&] { optimizer.step_parameter_with_device_factor(a, at::ones({1})); },
                                  "expected one float64");
}

TEST(Optimizer, AdafactorKeepsRowsAndColumns) {
  Tensor weight = trained(at::ones({8, 4, 3, 3}));
  Optimizer optimizer(std::vector<Tensor>{weight}, default_optimizer_config(OptimizerType::kAdafactor));
  weight.mutable_grad() = at::ones_like(weight);
  optimizer.step();
  const TensorMap state = optimizer.state_dict();
  EXPECT_EQ(state.keys(), (std::vector<std::string>{"0.step", "0.row_var", "0.col_var"}));
  EXPECT_EQ(state.at("0.row_var").sizes(), (at::IntArrayRef{8, 4, 3, 1}));
  EXPECT_EQ(state.at("0.col_var").sizes(), (at::IntArrayRef{8, 4, 1, 3}));
}

TEST(Optimizer, RefusesOptionsOfOtherTypes) {
  const std::vector<Tensor> one{trained(at::ones({3}))};
  const auto refuses = [&](const OptimizerConfig& config, const char* part) {
    expect_throws_with<ConfigError>([&] { Optimizer(one, config); }, part);
  };
  using enum OptimizerType;
  refuses({.type = kSGD, .amsgrad = true}, "amsgrad is true, but the optimizer \"sgd\"");
  refuses({.type = kSGD, .beta1 = 0.8}, "beta1 is 0.8, but the optimizer \"sgd\"");
  refuses({.type = kLion, .eps = 1e-6}, "eps is 1e-06, but the optimizer \"lion\"");
  refuses({.type = kAdafactor, .beta2 = 0.99}, "beta2 is 0.99, but the optimizer \"adafactor\"");
  refuses({.momentum = 0.9}, "momentum is 0.9, but the optimizer \"adamw\"");
  refuses({.d = 2.0}, "d is 2, but the optimizer \"adamw\"");
  refuses({.type = kLion, .eps1 = 1e-3}, "eps1 is 0.001, but the optimizer \"lion\"");
  refuses({.type = kAdafactor, .d = 0.5}, "d is 0.5");
  refuses({.type = kAdafactor, .beta2_decay = 0.8}, "beta2_decay is 0.8");
  refuses({.type = kAdafactor, .eps1 = -1.0}, "eps1 is -1");
  for (const OptimizerType type : {kAdamW, kAdam, kSGD, kLion, kAdafactor})
    EXPECT_NO_THROW(Optimizer(one, default_optimizer_config(type))) << enum_name(type);
}

TEST(Optimizer, RefusesAParameterGivenTwice) {
  const Tensor a = trained(at::ones({3}));
  expect_throws_with<TensorError>([&] { Optimizer(std::vector<Tensor>{a, a}); }, "given twice");
  expect_throws_with<ConfigError>(
      [&] {
        Optimizer(std::vector<ParameterGroup>{{.params = {a}, .names = {"a", "b"}}});
      },
      "2 names for 1 parameters");
}

TEST(Optimizer, SetsLearningRates) {
  const auto groups = [] {
    return std::vector<ParameterGroup>{{.params = {trained(at::ones({2}))}},
                                       {.params = {trained(at::ones({2}))}, .lr = 0.2, .lr_factor = 0.5}};
  };
  Optimizer optimizer(groups(), {.type = "sgd", .lr = 0.1, .weight_decay = 0.0});
  EXPECT_EQ(optimizer.lr(1), 0.1);
  optimizer.set_lr(0.3, 1);
  EXPECT_EQ(optimizer.lr(0), 0.1);
  EXPECT_EQ(optimizer.lr(1), 0.3);
  for (const ParameterGroup& group : optimizer.param_groups()) group.params[0].mutable_grad() = at::ones({2});
  optimizer.step();
  expect_close(optimizer.param_groups()[1].params[0].detach(), at::full({2}, 0.7), 1e-6, 0);
  optimizer.set_lr(0.05);
  EXPECT_EQ(optimizer.lr(0), 0.05);
  EXPECT_EQ(optimizer.lr(1), 0.05);
  expect_throws_with<Error>([&] { optimizer.set_lr(0.1, 2); }, "there is no group 2, only 2");
  expect_throws_with<ConfigError>([&] { optimizer.set_lr(-0.1); }, "lr of a parameter group is -0.1");
  expect_throws_with<ConfigError>([&] { optimizer.set_lr(std::nan(""), 0); }, "is nan");
}

TEST(Optimizer, RemovesOrZeroesGradients) {
  const Tensor a = trained(at::ones({2}));
  const Tensor without = trained(at::ones({2}));
  Optimizer optimizer(std::vector<Tensor>{a, without});
  a.mutable_grad() = at::ones({2});
  const Tensor grad = a.mutable_grad();
  optimizer.zero_grad(/*set_to_none=*/false);
  EXPECT_TRUE(a.grad().is_same(grad));
  expect_equal(grad, at::zeros({2}));
  EXPECT_FALSE(without.grad().defined());
  optimizer.zero_grad();
  EXPECT_FALSE(a.grad().defined());
}

TEST(Optimizer, TakesTheNameOfItsType) {
  EXPECT_EQ(OptimizerConfig{.type = "lion"}.type, OptimizerType::kLion);
  expect_throws_with<ConfigError>([] { OptimizerConfig{.type = "adamax"}; },
                                  "optimizer is \"adamax\", expected one of: \"adamw\"");
}

}  // namespace
}  // namespace diffusers
