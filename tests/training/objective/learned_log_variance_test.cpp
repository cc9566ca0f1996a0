#include <cmath>
#include <limits>
#include <string>

#include <diffusers/core/random.h>
#include <diffusers/training/learned_log_variance.h>
#include <diffusers/training/trainable_denoiser.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "training/loop/autocast.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;

LearnedLogVariance table_of(int64_t rows, double logvar_init = 0.0) {
  return LearnedLogVariance(
      {.type = LogVarianceType::kTable, .num_train_timesteps = rows, .logvar_init = logvar_init});
}

void set_tensor(torch::nn::Module& module, const std::string& name, const Tensor& value) {
  const at::NoGradGuard no_grad;
  auto tensors = module.named_parameters();
  tensors.update(module.named_buffers());
  tensors[name].copy_(value);
}

/// Computes the sum of loss / exp(u) + u and its gradients. The tests of EDMTask and DiffusionObjective
/// compute the same inline.
Tensor backward_of(const Tensor& loss, const Tensor& u) {
  Tensor uncertain = loss * (-u).exp() + u;
  uncertain.sum().backward();
  return uncertain;
}

TEST(FourierLogVariance, MatchesPython) {
  const test::Golden golden = test::load_golden("edm.safetensors");
  LearnedLogVariance model({.channels = 16});
  model->to(at::kDouble);
  for (const char* name : {"freqs", "phases", "weight"})
    set_tensor(*model, name, golden[std::string("fourier.") + name]);
  const Tensor u = model->forward(golden["0.5.c_noise"]);
  expect_close(u, golden["fourier.u"], 1e-10, 1e-12);
  expect_close(backward_of(golden["0.5.loss"], u), golden["fourier.loss"], 1e-10, 1e-12);
  EXPECT_EQ(model->parameters().size(), 1U);
  expect_close(model->parameters()[0].grad(), golden["fourier.gradient"], 1e-10, 1e-12);
}

TEST(TableLogVariance, MatchesPython) {
  const test::Golden golden = test::load_golden("edm.safetensors");
  LearnedLogVariance model = table_of(10);
  model->to(at::kDouble);
  set_tensor(*model, "logvar", golden["table.logvar"]);
  const Tensor u = model->forward(golden["table.t"]);
  expect_equal(u, golden["table.u"]);
  backward_of(golden["0.5.loss"].slice(0, 0, 4), u);
  expect_close(model->parameters()[0].grad(), golden["table.gradient"], 1e-10, 1e-12);
}

TEST(LearnedLogVariance, StartsWhereItsConfigSays) {
  manual_seed(3);
  const LearnedLogVariance fourier;
  const Tensor c_noise = at::linspace(-1.5, 1.1, 7);
  expect_equal(fourier->forward(c_noise), at::zeros({7}));
  // There are 128 frequencies 2 pi N(0, 1), and 128 phases uniform in [0, 2 pi).
  const Tensor freqs = fourier->named_buffers()["freqs"];
  EXPECT_NEAR(freqs.std().item<double>(), 6.283, 1.6);  // four standard deviations
  EXPECT_NEAR(freqs.mean().item<double>(), 0.0, 2.2);
  const Tensor phases = fourier->named_buffers()["phases"];
  EXPECT_GE(phases.min().item<double>(), 0.0);
  EXPECT_LT(phases.max().item<double>(), 6.2832);
  EXPECT_GT(phases.max().item<double>(), 5.9);

  expect_equal(table_of(4)->forward(at::tensor({0, 3})), at::zeros({2}));
  expect_equal(table_of(4, -1.5)->forward(at::tensor({0, 3})), at::full({2}, -1.5F));
}

TEST(LearnedLogVariance, LearnsTheLogarithmOfTheLoss) {
  LearnedLogVariance model;
  const Tensor c_noise = at::tensor({-1.0F, 0.0F, 0.8F});
  const Tensor losses = at::tensor({0.05F, 0.6F, 4.0F});
  for (int step = 0; step < 400; ++step) {
    backward_of(losses, model->forward(c_noise));
    const at::NoGradGuard no_grad;
    Tensor weight = model->parameters()[0];
    weight -= 2e-3 * weight.grad();
    weight.mutable_grad().zero_();
  }
  expect_close(model->forward(c_noise), losses.log(), 1e-3, 1e-3);
}

TEST(LearnedLogVariance, KeepsItsPrecisionUnderAutocast) {
  LearnedLogVariance model;
  set_tensor(*model, "weight", at::linspace(-1, 1, 128));
  const Tensor c_noise = at::linspace(-1.5, 1.1, 7);
  const Tensor plain = model->forward(c_noise);
  const Autocast autocast(at::kCPU, MixedPrecision::kBf16);
  expect_equal(model->forward(c_noise), plain);
}

TEST(LearnedLogVariance, IsSavedAndLoaded) {
  const test::TemporaryFolder folder;
  LearnedLogVariance fourier({.channels = 6});
  set_tensor(*fourier, "weight", at::linspace(-1, 1, 6));
  make_saved_module(fourier)->save(folder / "fourier");
  const Json config = parse_json(read_text_file(folder / "fourier/config.json"), "config.json");
  EXPECT_EQ(config.at("_class_name"), "LearnedLogVariance");
  EXPECT_EQ(config.at("type"), "fourier");
  EXPECT_EQ(config.at("channels"), 6);
  const Tensor c_noise = at::linspace(-1.5, 1.1, 7);
  expect_equal(LearnedLogVariance::from_pretrained(folder / "fourier")->forward(c_noise),
               fourier->forward(c_noise));

  make_saved_module(table_of(5, 0.25))->save(folder / "table");
  const LearnedLogVariance table = LearnedLogVariance::from_pretrained(folder / "table");
  EXPECT_EQ(table->config().num_train_timesteps, 5);
  expect_equal(table->forward(at::arange(5)), at::full({5}, 0.25F));
}

TEST(LearnedLogVariance, RefusesWhatItCannotBe) {
  const auto making = [](LearnedLogVarianceConfig config) { return [=] { LearnedLogVariance{config}; }; };
  expect_throws_with<ConfigError>(making({.type = LogVarianceType::kNone}), "type is \"none\"");
  expect_throws_with<ConfigError>(making({.channels = 0}), "channels");
  expect_throws_with<ConfigError>([] { table_of(0); }, "num_train_timesteps");
  expect_throws_with<ConfigError>([] { table_of(3, std::numeric_limits<double>::infinity()); },
                                  "logvar_init is inf");
  expect_throws_with<ConfigError>([] { LearnedLogVariance::from_config(R"({"type": "mlp"})"); },
                                  "type is \"mlp\"");
}

TEST(LearnedLogVariance, RefusesInputsThatItHasNoValueFor) {
  const LearnedLogVariance table = table_of(4);
  expect_throws_with<TensorError>([&] { table->forward(at::tensor({0.5F})); }, "integers");
  expect_throws_with<TensorError>([&] { table->forward(at::tensor({-1})); }, "0 to 3");
  expect_throws_with<TensorError>([&] { table->forward(at::tensor({4})); }, "0 to 3");
  const LearnedLogVariance fourier;
  expect_throws_with<TensorError>([&] { fourier->forward(at::zeros({2, 2})); }, "float32 [2, 2]");
  expect_throws_with<TensorError>([&] { fourier->forward({}); }, "an undefined tensor");
}

TEST(LearnedLogVariance, IsASavedModuleAndNoDenoiser) {
  static_assert(!DenoisingModel<LearnedLogVariance>);
  expect_throws_with<ConfigError>(
      [] { make_saved_module(LearnedLogVariance())->enable_gradient_checkpointing(); },
      "gradient_checkpointing");
  expect_throws_with<ConfigError>([] { make_saved_module(LearnedLogVariance(nullptr)); }, "empty holder");
}

}  // namespace
}  // namespace diffusers
