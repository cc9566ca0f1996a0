#include <string>

#include <diffusers/models/diagonal_gaussian.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/vae/autoencoder_golden.h"

namespace diffusers::test {
namespace {

const Tensor& expected_of(const std::string& name) { return autoencoder_golden()["distribution/" + name]; }

TEST(DiagonalGaussianDistribution, MatchesDiffusers) {
  const auto parameters = expected_of("parameters").clone().requires_grad_(true);
  const DiagonalGaussianDistribution posterior(parameters);
  const DiagonalGaussianDistribution other(expected_of("other"));
  expect_equal(posterior.mean, expected_of("mean"), "mean");
  expect_equal(posterior.logvar, expected_of("logvar"), "logvar");
  expect_close(posterior.std, expected_of("std"), 1e-6, 0, "std");
  expect_close(posterior.var, expected_of("var"), 1e-6, 0, "var");
  expect_equal(posterior.mode(), posterior.mean, "mode");
  const auto draw = posterior.sample(make_generator(3));
  expect_close(draw, expected_of("sample"), 1e-6, 1e-6, "sample");
  torch::manual_seed(4);
  expect_close(posterior.sample(), expected_of("sample_global"), 1e-6, 1e-6, "global sample");
  const auto kl = posterior.kl();
  const auto kl_other = posterior.kl(other);
  expect_close(kl, expected_of("kl"), 1e-6, 0, "kl");
  expect_close(kl_other, expected_of("kl_other"), 1e-6, 0, "kl(other)");
  (kl.sum() + kl_other.sum() * 1e-3 + draw.sum() * 1e-6).backward();
  expect_close(parameters.grad(), expected_of("grad"), 1e-5, 1e-6, "gradient");
  const auto at = expected_of("at");
  expect_close(other.nll(at), expected_of("nll"), 1e-5, 1e-5, "nll");
  expect_close(other.nll(at, {1, 3}), expected_of("nll_dims"), 1e-5, 1e-5, "nll over chosen dimensions");
  expect_close(other.nll(at, {0, 1, 2, 3}), expected_of("nll_all"), 1e-5, 1e-5, "nll over all");
}

TEST(DiagonalGaussianDistribution, DrawsInTheDtypeOfItsParameters) {
  const auto parameters = expected_of("other");
  expect_close(DiagonalGaussianDistribution(parameters.to(torch::kHalf)).sample(make_generator(5)),
               expected_of("sample_half"), 1e-3, 1e-3, "float16");
  const auto wide = DiagonalGaussianDistribution(parameters.to(torch::kDouble)).sample(make_generator(5));
  EXPECT_EQ(wide.scalar_type(), torch::kDouble);
  expect_close(wide, expected_of("sample_double"), 1e-12, 1e-12, "float64");
}

TEST(DiagonalGaussianDistribution, ADeterministicOneIsItsMean) {
  const DiagonalGaussianDistribution exact(expected_of("other"), /*deterministic=*/true);
  expect_equal(exact.sample(make_generator(6)), expected_of("deterministic_sample"), "sample");
  expect_equal(exact.sample(), exact.mode(), "mode");
  expect_equal(exact.kl(), expected_of("deterministic_kl"), "kl");
  expect_equal(exact.nll(expected_of("at")), expected_of("deterministic_nll"), "nll");
  EXPECT_EQ(exact.std.abs().max().item<float>(), 0);
  EXPECT_EQ(exact.var.abs().max().item<float>(), 0);
}

TEST(DiagonalGaussianDistribution, WrongShapesAreRefused) {
  const auto make = [](const Tensor& parameters) { return DiagonalGaussianDistribution(parameters); };
  expect_throws_with<TensorError>([&] { make(torch::zeros({2, 3, 4, 4})); }, "float32 [2, 3, 4, 4]");
  expect_throws_with<TensorError>([&] { make(torch::zeros({2, 4}, torch::kLong)); }, "int64 [2, 4]");
  expect_throws_with<TensorError>([&] { make({}); }, "undefined");
  expect_throws_with<TensorError>([&] { make(torch::zeros({2, 4})).kl(); }, "[2, 2]");
  const auto posterior = make(torch::zeros({2, 4, 3, 3}));
  expect_throws_with<TensorError>([&] { posterior.kl(make(torch::zeros({2, 6, 3, 3}))); }, "[2, 3, 3, 3]");
  expect_throws_with<TensorError>([&] { posterior.nll(torch::zeros({2, 2, 4, 3})); }, "[2, 2, 4, 3]");
  expect_throws_with<TensorError>([&] { posterior.nll(torch::zeros({2, 2, 3, 3}), {1, 4}); }, "dimension 4");
}

}  // namespace
}  // namespace diffusers::test
