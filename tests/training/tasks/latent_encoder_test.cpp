#include <string>
#include <utility>

#include <diffusers/training/latent_encoder.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "models/layers/autocast_scope.h"
#include "support/golden.h"
#include "training/tiny_autoencoder.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::tiny_images;
using test::tiny_vae;
using test::tiny_vae_config;
using test::tiny_vqvae;

TEST(LatentEncoder, SamplesThePosteriorWithTheNumbersOfTheGenerator) {
  AutoencoderKL vae = tiny_vae();
  const LatentEncoder encoder(vae);
  const Tensor images = tiny_images();
  const at::NoGradGuard no_grad;
  const auto posterior = vae->encode(images).latent_dist;
  const Tensor expected = posterior.sample(make_generator(4)) * 0.18215;
  expect_equal(encoder.encode(images, make_generator(4)), expected);

  const LatentDistribution distribution = encoder.encode_distribution(images);
  expect_equal(distribution.mean, posterior.mean);
  expect_equal(distribution.logvar, posterior.logvar);
  const Tensor noise = at::randn(posterior.mean.sizes(), make_generator(4));
  expect_equal(encoder.sample(distribution, noise), expected);
  expect_equal(encoder.sample(distribution.slice(1, 3), noise.slice(0, 1, 3)), expected.slice(0, 1, 3));
  expect_equal(encoder.mode(distribution), posterior.mean * 0.18215);
  expect_close(encoder.decode(expected), vae->decode(expected / 0.18215).sample, 0, 0);
}

TEST(LatentEncoder, TellsItsSizes) {
  const LatentEncoder encoder(tiny_vae());
  EXPECT_EQ(encoder.in_channels(), 3);
  EXPECT_EQ(encoder.latent_channels(), 2);
  EXPECT_EQ(encoder.downsampling_factor(), 2);
  EXPECT_FALSE(encoder.vae().is_empty());
  EXPECT_TRUE(encoder.vqvae().is_empty());
  EXPECT_EQ(encoder.frozen_module().name, "vae");
  EXPECT_FALSE(encoder.frozen_module().is_averaged);
  const LatentEncoder vq(tiny_vqvae());
  EXPECT_EQ(vq.latent_channels(), 2);
  EXPECT_TRUE(vq.vae().is_empty());
}

TEST(LatentEncoder, ShiftsAndNormalisesAsPythonsPipelines) {
  AutoencoderKLConfig config = tiny_vae_config();
  config.shift_factor = 0.25;
  const Tensor images = tiny_images();
  const LatentEncoder shifted(tiny_vae(config));
  const LatentDistribution distribution = shifted.encode_distribution(images);
  expect_equal(shifted.mode(distribution), (distribution.mean - 0.25) * 0.18215);
  const Tensor latents = shifted.mode(distribution);
  const at::NoGradGuard no_grad;
  expect_equal(shifted.decode(latents), shifted.vae()->decode(latents / 0.18215 + 0.25).sample);

  config.shift_factor.reset();
  config.latents_mean = {0.5, -1.0};
  config.latents_std = {2.0, 3.0};
  const LatentEncoder normalised(tiny_vae(config));
  const Tensor mean = at::tensor({0.5F, -1.0F}).view({1, 2, 1, 1});
  const Tensor std = at::tensor({2.0F, 3.0F}).view({1, 2, 1, 1});
  expect_equal(normalised.mode(distribution), (distribution.mean - mean) * 0.18215 / std);
  expect_equal(normalised.decode(latents), normalised.vae()->decode(latents * std / 0.18215 + mean).sample);

  config.latents_std.clear();
  expect_throws_with<ConfigError>([&] { LatentEncoder{tiny_vae(config)}; }, "2 values in latents_mean and 0");
}

TEST(LatentEncoder, OfAVQModelDrawsNoNoise) {
  VQModel vqvae = tiny_vqvae();
  const LatentEncoder encoder(vqvae);
  EXPECT_FALSE(encoder.has_posterior());
  const Tensor images = tiny_images();
  const at::NoGradGuard no_grad;
  const Tensor expected = vqvae->encode(images).latents * 0.18215;
  EXPECT_FALSE(encoder.encode_distribution(images).logvar.defined());
  Generator generator = make_generator(4);
  const Tensor before = generator.get_state();
  expect_equal(encoder.encode(images, generator), expected);
  expect_equal(generator.get_state(), before);
  expect_equal(encoder.decode(expected), vqvae->decode(expected / 0.18215).sample);
}

TEST(LatentEncoder, ScalesByTheStandardDeviationOfTheFirstBatch) {
  LatentEncoder encoder(tiny_vae(), {.scale_by_std = true});
  const LatentDistribution distribution = encoder.encode_distribution(tiny_images());
  const Tensor noise = at::randn(distribution.mean.sizes(), make_generator(4));
  EXPECT_TRUE(encoder.needs_scale());
  expect_throws_with<Error>([&] { encoder.sample(distribution, noise); }, "was not measured");
  expect_throws_with<Error>([&] { encoder.decode(noise); }, "was not measured");
  encoder.measure_scale(distribution, noise);
  EXPECT_FALSE(encoder.needs_scale());
  const Tensor z = distribution.mean + at::exp(0.5 * distribution.logvar) * noise;
  expect_equal(encoder.measured_scale(), 1 / z.flatten().std());
  expect_equal(encoder.sample(distribution, noise), z * encoder.measured_scale());
  EXPECT_NEAR(encoder.sample(distribution, noise).std().item<double>(), 1.0, 1e-5);

  // What is saved has the measured factor in its config, so that pipelines decode with it.
  const test::TemporaryFolder folder;
  encoder.save_pretrained(folder / "vae");
  const auto loaded = AutoencoderKL::from_pretrained(folder / "vae");
  EXPECT_FLOAT_EQ(static_cast<float>(loaded->config().scaling_factor),
                  encoder.measured_scale().item<float>());
  expect_equal(loaded->decoder->conv_in->weight, encoder.vae()->decoder->conv_in->weight);

  LatentEncoder resumed(tiny_vae(), {.scale_by_std = true});
  resumed.set_measured_scale(encoder.measured_scale());
  expect_equal(resumed.sample(distribution, noise), encoder.sample(distribution, noise));
  expect_throws_with<TensorError>([&] { resumed.set_measured_scale(at::ones({2})); }, "one floating number");
  LatentEncoder fixed(tiny_vae());
  expect_throws_with<ConfigError>([&] { fixed.set_measured_scale(at::ones({})); }, "scale_by_std is false");
  expect_throws_with<ConfigError>([&] { fixed.measure_scale(distribution, noise); }, "scale_by_std is false");
  AutoencoderKLConfig config = tiny_vae_config();
  config.shift_factor = 0.5;
  expect_throws_with<ConfigError>([&] { LatentEncoder(tiny_vae(config), {.scale_by_std = true}); },
                                  "scale_by_std is true");
}

TEST(LatentEncoder, RunsInFloat32WhereForceUpcastSaysSo) {
  const Tensor images = tiny_images();
  const Tensor exact = LatentEncoder(tiny_vae()).encode_distribution(images).mean;
  const AutocastScope autocast({at::kCPU, true, at::kBFloat16});
  expect_equal(LatentEncoder(tiny_vae()).encode_distribution(images).mean, exact);
  AutoencoderKLConfig config = tiny_vae_config();
  config.force_upcast = false;
  const Tensor rough = LatentEncoder(tiny_vae(config)).encode_distribution(images).mean;
  EXPECT_EQ(rough.scalar_type(), at::kFloat);
  EXPECT_FALSE(at::equal(rough, exact));
  expect_close(rough, exact, 0.1, 0.1);

  AutoencoderKL half = tiny_vae();
  half->to(at::kBFloat16);
  EXPECT_EQ(LatentEncoder(half).encode_distribution(images).mean.scalar_type(), at::kFloat);
  EXPECT_EQ(half->encoder->conv_in->weight.scalar_type(), at::kFloat);
}

TEST(LatentEncoder, RunsInEvalModeWithoutAGraph) {
  AutoencoderKL vae = tiny_vae();
  vae->train();
  const LatentEncoder encoder(vae);
  const Tensor latents = encoder.encode(tiny_images().requires_grad_(true), make_generator(1));
  EXPECT_FALSE(latents.requires_grad());
  EXPECT_FALSE(encoder.decode(latents.clone().requires_grad_(true)).requires_grad());
  EXPECT_TRUE(vae->is_training());
}

TEST(LatentEncoder, NamesWhatDoesNotFit) {
  const LatentEncoder encoder(tiny_vae());
  expect_throws_with<TensorError>(
      [&] {
        encoder.encode_distribution(at::zeros({2, 1, 8, 8}));
      },
      "the autoencoder's in_channels is 3");
  expect_throws_with<TensorError>(
      [&] {
        encoder.encode_distribution(at::zeros({2, 3, 8, 9}));
      },
      "multiples of 2");
  expect_throws_with<TensorError>(
      [&] {
        encoder.encode_distribution(at::zeros({2, 3, 8, 8}, at::kLong));
      },
      "expected a floating tensor");
  expect_throws_with<TensorError>([&] { encoder.check_images(at::zeros({3, 8, 8}), "masks"); }, "masks are");
  expect_throws_with<TensorError>(
      [&] {
        encoder.decode(at::zeros({1, 3, 4, 4}));
      },
      "expected a floating tensor");
  const LatentDistribution distribution = encoder.encode_distribution(tiny_images());
  expect_throws_with<TensorError>(
      [&] {
        encoder.sample(distribution, at::zeros({1, 2, 4, 4}));
      },
      "expected equal shapes");
  expect_throws_with<TensorError>([&] { encoder.sample(distribution, {}); }, "the posterior noise is");
  expect_throws_with<ConfigError>([] { LatentEncoder{AutoencoderKL(nullptr)}; }, "constructed AutoencoderKL");
  expect_throws_with<ConfigError>([] { LatentEncoder{VQModel(nullptr)}; }, "constructed VQModel");

  encoder.check_denoiser({.in_channels = 2, .out_channels = 2});
  encoder.check_denoiser({.in_channels = 2, .out_channels = 4});
  encoder.check_denoiser({.in_channels = 5, .out_channels = 2}, 3);
  encoder.check_denoiser({});
  expect_throws_with<ConfigError>([&] { encoder.check_denoiser({.in_channels = 4}); },
                                  "expected in_channels 2");
  expect_throws_with<ConfigError>([&] { encoder.check_denoiser({.in_channels = 4}, 3, "transformer"); },
                                  "in_channels of the transformer is 4, but it receives 5 channels");
  expect_throws_with<ConfigError>([&] { encoder.check_denoiser({.out_channels = 3}); },
                                  "expected out_channels 2");
}

TEST(LatentEncoder, TellsAutoencodersApart) {
  const std::string same = LatentEncoder(tiny_vae()).fingerprint();
  EXPECT_EQ(same.size(), 64U);
  EXPECT_EQ(LatentEncoder(tiny_vae()).fingerprint(), same);
  AutoencoderKL moved = tiny_vae();
  {
    const at::NoGradGuard no_grad;
    moved->encoder->conv_in->weight.view({-1})[0].add_(1e-3);
  }
  EXPECT_NE(LatentEncoder(moved).fingerprint(), same);
  AutoencoderKLConfig config = tiny_vae_config();
  config.scaling_factor = 1.0;
  EXPECT_NE(LatentEncoder(tiny_vae(config)).fingerprint(), same);
}

}  // namespace
}  // namespace diffusers
