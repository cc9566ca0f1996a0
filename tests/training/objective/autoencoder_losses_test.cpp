#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/training/autoencoder_losses.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>

#include "core/json.h"
#include "models/vae/training_golden.h"
#include "support/golden.h"
#include "support/gradients.h"

namespace diffusers::test {
namespace {

/// The leaves that the losses are computed from; the same numbers for every case.
struct LossInputs {
  explicit LossInputs(at::ScalarType dtype) {
    const auto leaf = [&](const char* name) {
      return training_golden()[std::string("loss.") + name].to(dtype).clone().requires_grad_(true);
    };
    inputs = training_golden()["loss.inputs"].to(dtype);
    cond = training_golden()["loss.cond"].to(dtype);
    hidden = leaf("hidden");
    last_layer = leaf("last_layer");
    moments = leaf("moments");
    reconstructions = at::conv2d(hidden, last_layer, {}, 1, 1);
  }
  Tensor inputs, cond, hidden, last_layer, moments, reconstructions;
};

template <class Config>
Config loss_config(const Json& json) {
  const Json& fields = json.at("loss");
  Config config;
  config.disc_start = fields.value("disc_start", int64_t{0});
  config.disc_factor = fields.value("disc_factor", 1.0);
  config.disc_weight = fields.value("disc_weight", 1.0);
  config.perceptual_weight = fields.value("perceptual_weight", 1.0);
  config.disc_conditional = json.value("conditional", false);
  config.disc_loss = fields.value("disc_loss", std::string("hinge")).c_str();
  config.pixel_loss = fields.value("pixel_loss", std::string("l1")).c_str();
  if constexpr (requires { config.kl_weight; }) {
    config.kl_weight = fields.value("kl_weight", 1.0);
    config.logvar_init = fields.value("logvar_init", 0.0);
  } else {
    config.codebook_weight = fields.value("codebook_weight", 1.0);
  }
  return config;
}

void expect_terms(const Json& one, const std::vector<Tensor>& terms, double tolerance) {
  const auto name = one.at("name").get<std::string>();
  const Tensor& expected = training_golden()[name + ".terms"];
  const char* names[] = {"loss", "nll_loss", "kl_loss or codebook_loss", "g_loss", "d_weight"};
  for (int64_t i = 0; i < 5; ++i)
    expect_close(terms[i], expected[i], tolerance, tolerance, name + " " + names[i]);
}

void expect_leaf_gradients(const Json& one, const LossInputs& given, const Tensor& logvar, double tolerance) {
  const auto name = one.at("name").get<std::string>();
  const auto compare = [&](const char* key, const Tensor& gradient) {
    const Tensor& expected = training_golden()[name + ".grad_" + key];
    const double scale = expected.abs().max().item<double>();
    expect_close(gradient, expected, tolerance, tolerance * scale, name + " gradient of " + key);
  };
  compare("hidden", given.hidden.grad());
  compare("last_layer", given.last_layer.grad());
  compare("moments", given.moments.grad());
  if (logvar.defined()) compare("logvar", logvar.grad());
}

void compare_loss_with_python(const Json& one, at::ScalarType dtype, double tolerance) {
  const auto name = one.at("name").get<std::string>();
  const bool is_conditional = one.value("conditional", false);
  const auto step = one.at("step").get<int64_t>();
  const LPIPS lpips = golden_lpips("alex", dtype);
  const NLayerDiscriminator disc = golden_discriminator({.input_nc = is_conditional ? 5 : 3,
                                                         .ndf = 4,
                                                         .n_layers = 2,
                                                         .use_actnorm = one.value("use_actnorm", false)},
                                                        dtype);
  const LossInputs given(dtype);
  const GeneratorLossOptions options{.cond = is_conditional ? given.cond : Tensor()};
  Tensor d_loss;
  if (one.at("kind") == "kl") {
    LPIPSWithDiscriminator loss(loss_config<LPIPSWithDiscriminatorConfig>(one), lpips, disc);
    loss->to(dtype);
    const auto [total, nll_loss, kl_loss, g_loss, d_weight] =
        loss->generator_loss(given.inputs, given.reconstructions, DiagonalGaussianDistribution(given.moments),
                             step, given.last_layer, options);
    expect_terms(one, {total, nll_loss, kl_loss, g_loss, d_weight}, tolerance);
    total.backward();
    expect_leaf_gradients(one, given, loss->logvar, tolerance);
    disc.ptr()->zero_grad();
    d_loss = loss->discriminator_loss(given.inputs, given.reconstructions, step, options.cond);
  } else {
    VQLPIPSWithDiscriminator loss(loss_config<VQLPIPSWithDiscriminatorConfig>(one), lpips, disc);
    const auto [total, nll_loss, codebook_loss, g_loss, d_weight] = loss->generator_loss(
        given.moments.square().mean(), given.inputs, given.reconstructions, step, given.last_layer, options);
    expect_terms(one, {total, nll_loss, codebook_loss, g_loss, d_weight}, tolerance);
    total.backward();
    expect_leaf_gradients(one, given, {}, tolerance);
    disc.ptr()->zero_grad();
    d_loss = loss->discriminator_loss(given.inputs, given.reconstructions, step, options.cond);
  }
  expect_close(d_loss, training_golden()[name + ".d_loss"], tolerance, tolerance, name + " d_loss");
  d_loss.backward();
  if (one.at("step") >= one.at("loss").at("disc_start"))
    expect_gradients(*disc.ptr(), training_golden(), name + "/", tolerance);
}

TEST(AutoencoderLosses, TermsAndGradientsMatchPython) {
  const Json cases = training_cases("loss");
  ASSERT_EQ(cases.size(), 7U);
  for (const Json& one : cases) {
    compare_loss_with_python(one, at::kDouble, 1e-9);
    compare_loss_with_python(one, at::kFloat, 1e-4);
  }
}

TEST(AutoencoderLosses, OfADiscriminatorMatchPython) {
  const auto& golden = training_golden();
  const Tensor& real = golden["loss.logits_real"];
  const Tensor& fake = golden["loss.logits_fake"];
  expect_close(hinge_d_loss(real, fake), golden["loss.hinge"], 1e-6, 0);
  expect_close(vanilla_d_loss(real, fake), golden["loss.vanilla"], 1e-6, 0);
}

TEST(AutoencoderLosses, DetailsSplitTheGradientOfTheLastLayer) {
  const LossInputs given(at::kDouble);
  const LPIPS lpips = golden_lpips("alex");
  const NLayerDiscriminator disc = golden_discriminator({.ndf = 4, .n_layers = 2});
  VQLPIPSWithDiscriminator loss({.disc_start = 5, .perceptual_weight = 0.7}, lpips, disc);
  const auto norm = [&](const Tensor& term) {
    return torch::autograd::grad({term}, {given.last_layer}, {}, /*retain_graph=*/true).front().norm();
  };
  for (const int64_t step : {4, 5}) {
    GeneratorDetails details;
    const VQGeneratorLoss terms =
        loss->generator_loss(given.moments.mean(), given.inputs, given.reconstructions, step,
                             given.last_layer, {.skip_idle_discriminator = true, .details = &details});
    const Tensor pixel = loss->pixel_losses(given.inputs, given.reconstructions);
    const Tensor distance = lpips(given.inputs, given.reconstructions);
    expect_close(details.rec_loss, pixel.mean(), 1e-12, 0);
    expect_close(details.p_loss, distance.mean(), 1e-12, 0);
    expect_close(details.rec_grad_norm, norm(pixel.mean()), 1e-9, 0);
    expect_close(details.p_grad_norm, norm(0.7 * distance.mean()), 1e-7, 0);
    expect_close(details.nll_grad_norm, norm(terms.nll_loss), 1e-12, 0);
    if (step < 5) {
      // Left out, as it has no effect on the loss yet.
      for (const Tensor& value : {terms.g_loss, terms.d_weight, details.g_grad_norm})
        EXPECT_EQ(value.item<double>(), 0);
    } else {
      expect_close(details.g_grad_norm, norm(terms.g_loss), 1e-12, 0);
      expect_close(terms.d_weight, details.nll_grad_norm / (details.g_grad_norm + 1e-4), 1e-12, 0);
    }
  }
}

TEST(AutoencoderLosses, HavePythonsNamesAndFitADiscriminator) {
  LPIPSWithDiscriminator loss({.logvar_init = 0.25, .disc_num_layers = 2, .disc_in_channels = 1},
                              golden_lpips("alex", at::kFloat));
  EXPECT_EQ(loss->discriminator->config().n_layers, 2);
  EXPECT_EQ(loss->discriminator->config().input_nc, 1);
  EXPECT_EQ(loss->discriminator->config().ndf, 64);
  EXPECT_EQ(loss->logvar.item<float>(), 0.25F);
  const auto names = loss->named_parameters().keys();
  EXPECT_EQ(names.front(), "logvar");
  for (const char* name : {"perceptual_loss.net.slice1.0.weight", "perceptual_loss.lin0.model.1.weight",
                           "discriminator.main.0.weight"})
    EXPECT_TRUE(loss->named_parameters().contains(name)) << name;
  const VQLPIPSWithDiscriminator small({.perceptual_weight = 0, .disc_ndf = 8});
  EXPECT_EQ(small->discriminator->config().ndf, 8);
  EXPECT_TRUE(small->perceptual_loss.is_empty());
}

TEST(AutoencoderLosses, WithoutADiscriminatorAreTheReconstructionAlone) {
  const LossInputs given(at::kDouble);
  VQLPIPSWithDiscriminator loss({.pixelloss_weight = 2, .disc_factor = 0, .perceptual_weight = 0});
  EXPECT_TRUE(loss->discriminator.is_empty());
  const VQGeneratorLoss terms =
      loss->generator_loss(given.moments.square(), given.inputs, given.reconstructions, 0, given.last_layer);
  expect_close(terms.nll_loss, 2 * (given.inputs - given.reconstructions).abs().mean(), 1e-12, 0);
  expect_close(terms.loss, terms.nll_loss + given.moments.square().mean(), 1e-12, 0);
  EXPECT_EQ(terms.g_loss.item<double>(), 0);
  expect_throws_with<ConfigError>([&] { loss->discriminator_loss(given.inputs, given.reconstructions, 0); },
                                  "there is no discriminator");
}

TEST(AutoencoderLosses, NeedAGradientInTrainModeAlone) {
  const LossInputs given(at::kDouble);
  LPIPSWithDiscriminator loss({.perceptual_weight = 0}, nullptr,
                              golden_discriminator({.ndf = 4, .n_layers = 2}));
  loss->to(at::kDouble);
  const DiagonalGaussianDistribution posterior(given.moments);
  const auto compute = [&](const Tensor& reconstructions, const Tensor& last_layer) {
    return loss->generator_loss(given.inputs, reconstructions, posterior, 3, last_layer);
  };
  const Tensor detached = given.reconstructions.detach();
  for (const Tensor& layer : {given.last_layer, Tensor()})
    expect_throws_with<TensorError>([&] { compute(detached, layer); }, "the last layer is");
  {
    const at::NoGradGuard no_grad;
    EXPECT_EQ(compute(detached, given.last_layer).d_weight.item<double>(), 0.0);
  }
  loss->eval();
  EXPECT_EQ(compute(detached, given.last_layer).d_weight.item<double>(), 0);
  const at::NoGradGuard no_grad;
  EXPECT_EQ(compute(given.reconstructions, given.last_layer).d_weight.item<double>(), 0);
}

TEST(AutoencoderLosses, WrongArgumentsAreRefused) {
  const auto refuse = [](const LPIPSWithDiscriminatorConfig& config, std::string_view part,
                         const NLayerDiscriminator& disc = nullptr) {
    expect_throws_with<ConfigError>([&] { LPIPSWithDiscriminator(config, nullptr, disc); }, part);
  };
  refuse({}, "perceptual_weight is 1, but there is no LPIPS");
  refuse({.disc_start = -1}, "disc_start is -1");
  refuse({.kl_weight = -1, .perceptual_weight = 0}, "kl_weight is -1");
  refuse({.pixelloss_weight = -1}, "pixelloss_weight is -1");
  refuse({.disc_factor = -1}, "disc_factor is -1");
  refuse({.disc_weight = -1}, "disc_weight is -1");
  refuse({.perceptual_weight = -1}, "perceptual_weight is -1");
  refuse({.logvar_init = HUGE_VAL, .perceptual_weight = 0}, "logvar_init is inf");
  const NLayerDiscriminator disc({.ndf = 4, .n_layers = 2});
  refuse({.disc_num_layers = 4, .perceptual_weight = 0}, "disc_num_layers is 4", disc);
  refuse({.disc_in_channels = 1, .perceptual_weight = 0}, "disc_in_channels is 1", disc);
  refuse({.perceptual_weight = 0, .use_actnorm = true}, "use_actnorm is true", disc);
  expect_throws_with<ConfigError>(
      [&] { VQLPIPSWithDiscriminator({.perceptual_weight = 0, .disc_ndf = 8}, nullptr, disc); },
      "disc_ndf is 8");
  expect_throws_with<ConfigError>(
      [&] { VQLPIPSWithDiscriminator({.codebook_weight = -1, .perceptual_weight = 0}); },
      "codebook_weight is -1");
  expect_throws_with<ConfigError>(
      [&] { VQLPIPSWithDiscriminator({.perceptual_weight = 0, .disc_loss = "wgan"}); }, "wgan");

  const LossInputs given(at::kFloat);
  VQLPIPSWithDiscriminator loss({.perceptual_weight = 0}, nullptr, disc);
  expect_throws_with<ConfigError>(
      [&] { loss->discriminator_loss(given.inputs, given.reconstructions, 0, given.cond); },
      "disc_conditional is false");
  expect_throws_with<TensorError>(
      [&] { loss->discriminator_loss(given.inputs, given.reconstructions.slice(2, 0, 8), 0); }, "one shape");
  expect_throws_with<TensorError>(
      [&] {
        loss->generator_loss(given.moments.mean(), given.inputs, given.reconstructions.slice(2, 0, 8), 0,
                             given.last_layer);
      },
      "one shape");
}

}  // namespace
}  // namespace diffusers::test
