// EMA in float64 against Python, its saved state, and latent-diffusion's EMA.

#include <string>
#include <vector>

#include <diffusers/io/model_file.h>
#include <diffusers/training/ema.h>
#include <diffusers/training/lit_ema.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;

Tensor variable(const Tensor& value) { return value.clone().requires_grad_(); }

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
    const Tensor a = variable(golden["values.a"][0]);
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
  const Tensor a = variable(at::ones({3}));
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
  const Tensor a = variable(at::randn({4}));
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

TEST(EMAModel, FollowsPythonInFloat64) {
  const test::Golden golden = test::load_golden("training_averages.safetensors");
  const Json configs = parse_json(golden.metadata.at("cases"), "cases").at("ema");
  for (std::size_t number = 0; number < configs.size(); ++number) {
    const Json& one = configs.at(number);
    const Tensor parameter = variable(golden["values"][0]);
    EMAModel ema({parameter}, ema_config_from(one));
    const std::string name = "ema." + std::to_string(number);
    for (int64_t step = 1; step <= 50; ++step) {
      parameter.detach().copy_(golden["values"][step]);
      ema.step({parameter});
      EXPECT_NEAR(ema.cur_decay_value(), golden[name + ".decay"][step - 1].item<double>(), 1e-15);
      expect_close(ema.shadow_params()[0], golden[name][step - 1], 1e-10, 1e-12, one.dump());
    }
  }
}

// https://github.com/huggingface/diffusers/issues/1864: the decay of 0 in the first step replaced the
// configured decay, and the average was a copy of the weights from then on.
TEST(EMAModel, KeepsItsConfiguredDecay) {
  const Tensor parameter = variable(at::zeros({1}));
  EMAModel ema({parameter}, {.decay = 0.5});
  ema.step({parameter});
  EXPECT_EQ(ema.cur_decay_value(), 0.0);
  EXPECT_EQ(ema.config().decay, 0.5);
  for (int step = 0; step < 30; ++step) ema.step({parameter});
  EXPECT_EQ(ema.cur_decay_value(), 0.5);
  parameter.detach().fill_(1);
  ema.step({parameter});
  expect_equal(ema.shadow_params()[0], at::full({1}, 0.5));
}

// https://github.com/huggingface/diffusers/issues/9764: a loaded EMA restarted at step 0.
TEST(EMAModel, SurvivesSavingAndLoading) {
  const test::TemporaryFolder folder;
  const TensorMap parameters{{"a", variable(at::randn({3, 2}))}, {"b", variable(at::randn({4}))}};
  const std::vector<Tensor> list{parameters.at("a"), parameters.at("b")};
  const EMAModelConfig config{.decay = 0.995,
                              .min_decay = 0.1,
                              .update_after_step = 2,
                              .use_ema_warmup = true,
                              .inv_gamma = 3.0,
                              .power = 0.75};
  EMAModel ema(list, config);
  const auto train = [&](EMAModel& average) {
    for (const Tensor& parameter : list) parameter.detach().mul_(1.01).add_(0.1);
    average.step(list);
  };
  for (int step = 0; step < 9; ++step) train(ema);

  // A trainer saves the model with the EMA weights.
  ema.store(list);
  ema.copy_to(list);
  save_weights(parameters, folder.path());
  ema.restore(list);
  write_file("{\"_class_name\": \"Net\", \"channels\": 4}", folder / "config.json");
  save_ema_state(ema.state(), folder.path());

  EMAModel loaded = EMAModel::from_pretrained(folder.path(), parameters);
  EXPECT_EQ(loaded.optimization_step(), 9);
  EXPECT_EQ(loaded.config().decay, config.decay);
  EXPECT_EQ(loaded.config().min_decay, config.min_decay);
  EXPECT_EQ(loaded.config().update_after_step, config.update_after_step);
  EXPECT_EQ(loaded.config().use_ema_warmup, config.use_ema_warmup);
  EXPECT_EQ(loaded.config().inv_gamma, config.inv_gamma);
  EXPECT_EQ(loaded.config().power, config.power);
  const Json saved = parse_json(read_text_file(folder / "config.json"), "config.json");
  EXPECT_EQ(saved.at("channels"), 4);
  EXPECT_EQ(saved.at("optimization_step"), 9);

  train(ema);
  loaded.step(list);
  for (std::size_t i = 0; i < list.size(); ++i)
    expect_equal(loaded.shadow_params()[i], ema.shadow_params()[i]);

  const TensorMap more{{"a", list[0]}, {"c", list[1]}};
  expect_throws_with<FileError>([&] { EMAModel::from_pretrained(folder.path(), more); }, "\"c\"");
}

TEST(EMAModel, ConvertsFloatingTensorsOnly) {
  const Tensor floating = variable(at::ones({2}));
  const Tensor integral = at::ones({2}, at::kLong);
  EMAModel ema({floating, integral});
  ema.to(std::nullopt, at::kDouble);
  EXPECT_EQ(ema.shadow_params()[0].scalar_type(), at::kDouble);
  EXPECT_EQ(ema.shadow_params()[1].scalar_type(), at::kLong);
  if (!at::hasCUDA()) expect_throws_with<Error>([&] { ema.pin_memory(); }, "CUDA");
}

TEST(EMAModel, SharesTheMemoryOfFrozenParameters) {
  const Tensor trained = variable(at::ones({2}));
  const Tensor frozen = at::ones({3});
  EMAModel ema({trained, frozen}, {.decay = 0.5});
  const auto shares = [&](std::size_t i, const Tensor& parameter) {
    return ema.shadow_params()[i].is_alias_of(parameter);
  };
  for (int step = 0; step < 3; ++step) {
    EXPECT_FALSE(shares(0, trained));
    EXPECT_TRUE(shares(1, frozen));
    ema.step({trained, frozen});
  }
  // The parameters of another model receive the EMA weights, too.
  const Tensor other = at::zeros({3});
  ema.copy_to({at::zeros({2}), other});
  expect_equal(other, at::ones({3}));
  // Loading EMA weights does not change the parameters.
  ema.load_shadow_params({at::ones({2}), at::ones({3})});
  EXPECT_TRUE(shares(1, frozen));
  ema.load_shadow_params({at::ones({2}), at::full({3}, 7.0)});
  expect_equal(frozen, at::ones({3}));
  expect_equal(ema.shadow_params()[1], at::full({3}, 7.0));
  ema.step({trained, frozen});
  expect_equal(ema.shadow_params()[1], at::ones({3}));
}

TEST(EMAModel, AveragesAParameterFromWhenItIsTrained) {
  const Tensor parameter = at::ones({2});
  EMAModel ema({parameter}, {.decay = 0.5});
  for (int step = 0; step < 20; ++step) ema.step({parameter});
  parameter.requires_grad_();
  parameter.detach().fill_(2);
  ema.step({parameter});
  EXPECT_FALSE(ema.shadow_params()[0].is_alias_of(parameter));
  expect_equal(ema.shadow_params()[0], at::full({2}, 2.0));
  parameter.detach().fill_(4);
  ema.step({parameter});
  expect_equal(ema.shadow_params()[0], at::full({2}, 3.0));
}

TEST(EMAModel, ConvertsFrozenParametersIntoCopies) {
  const Tensor frozen = at::ones({2});
  EMAModel ema({frozen});
  ema.to(at::kCPU);
  EXPECT_TRUE(ema.shadow_params()[0].is_alias_of(frozen));
  ema.to(std::nullopt, at::kDouble);
  EXPECT_FALSE(ema.shadow_params()[0].is_alias_of(frozen));
  frozen.fill_(3);
  ema.step({frozen});
  expect_equal(ema.shadow_params()[0], at::full({2}, 3.0, at::kDouble));
}

TEST(LitEma, CountsAsLatentDiffusion) {
  const test::Golden golden = test::load_golden("training_averages.safetensors");
  const Json configs = parse_json(golden.metadata.at("cases"), "cases").at("lit");
  for (std::size_t number = 0; number < configs.size(); ++number) {
    const Json& one = configs.at(number);
    const TensorMap parameters{{"net.weight", variable(golden["values"][0])}};
    LitEma ema(parameters, {.decay = one.at("decay").get<double>(),
                            .use_num_updates = one.at("use_num_updates").get<bool>()});
    for (int64_t step = 1; step <= 50; ++step) {
      parameters.at("net.weight").detach().copy_(golden["values"][step]);
      ema.step(parameters);
      expect_close(ema.shadow_params().at("net.weight"), golden["lit." + std::to_string(number)][step - 1],
                   1e-10, 1e-12, one.dump());
    }
    EXPECT_EQ(ema.num_updates(), one.at("use_num_updates").get<bool>() ? 50 : -1);
  }
  // The decay is 2/11 at the first update.
  const TensorMap parameters{{"a", variable(at::zeros({1}))}};
  EXPECT_EQ(LitEma(parameters).get_decay(1), static_cast<double>(2.0F / 11.0F));
}

TEST(LitEma, ReadsAndWritesTheKeysOfLatentDiffusion) {
  Tensor weight = variable(at::ones({2, 2}));
  Tensor frozen = at::ones({3});
  const TensorMap parameters{{"diffusion_model.out.2.weight", weight}, {"logvar", frozen}};
  LitEma ema(parameters);
  weight.detach().fill_(3);
  frozen.fill_(7);
  ema.step(parameters);
  TensorMap checkpoint = ema.state_dict();
  EXPECT_EQ(checkpoint.keys(), (std::vector<std::string>{"model_ema.decay", "model_ema.num_updates",
                                                         "model_ema.diffusion_modelout2weight"}));
  EXPECT_EQ(checkpoint.at("model_ema.decay").scalar_type(), at::kFloat);
  EXPECT_EQ(checkpoint.at("model_ema.num_updates").scalar_type(), at::kInt);
  EXPECT_EQ(checkpoint.at("model_ema.num_updates").item<int>(), 1);
  checkpoint.insert("first_stage_model.encoder.weight", at::zeros({1}));

  LitEma loaded(parameters, {.decay = 0.5});
  loaded.load_state_dict(checkpoint);
  EXPECT_EQ(loaded.num_updates(), 1);
  EXPECT_FLOAT_EQ(static_cast<float>(loaded.decay()), 0.9999F);
  weight.detach().fill_(-1);
  ema.step(parameters);
  loaded.step(parameters);
  expect_equal(loaded.shadow_params().at("diffusion_model.out.2.weight"),
               ema.shadow_params().at("diffusion_model.out.2.weight"));

  ema.store(parameters);
  ema.copy_to(parameters);
  expect_equal(weight.detach(), ema.shadow_params().at("diffusion_model.out.2.weight"));
  EXPECT_EQ(frozen[0].item<float>(), 7.0F);
  ema.restore(parameters);
  expect_equal(weight.detach(), at::full({2, 2}, -1.0));

  const TensorMap averages = averages_from_lit_ema(checkpoint, {"diffusion_model.out.2.weight", "logvar"});
  EXPECT_EQ(averages.keys(), (std::vector<std::string>{"diffusion_model.out.2.weight"}));
  expect_throws_with<TensorError>([&] { averages_from_lit_ema(checkpoint, {"logvar"}); }, "model_ema.");
  checkpoint.erase("model_ema.diffusion_modelout2weight");
  expect_throws_with<TensorError>([&] { loaded.load_state_dict(checkpoint); }, "diffusion_modelout2weight");
}

TEST(LitEma, RefusesWhatItCannotTellApart) {
  const Tensor a = variable(at::ones({1}));
  const TensorMap alike{{"block.1.weight", a}, {"block1.weight", variable(at::ones({1}))}};
  expect_throws_with<ConfigError>([&] { LitEma ema(alike); }, "\"block1.weight\"");
  const TensorMap one{{"a", a}};
  expect_throws_with<ConfigError>([&] { LitEma(one, {.decay = -0.1}); }, "decay is -0.1");
  LitEma ema(one);
  const TensorMap other{{"a", a}, {"b", variable(at::ones({1}))}};
  expect_throws_with<TensorError>([&] { ema.step(other); }, "\"b\"");
  expect_throws_with<ConfigError>([&] { ema.set_num_updates(-1); }, "num_updates is -1");
}

}  // namespace
}  // namespace diffusers
