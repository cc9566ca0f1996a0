#include <string>

#include <diffusers/core/random.h>
#include <diffusers/training/edm_preconditioner.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "training/formula_model.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_throws_with;
using test::formula_model;
using test::reference_network;

TEST(EDMPreconditioner, MatchesPython) {
  const test::Golden golden = test::load_golden("edm.safetensors");
  const Json cases = parse_json(golden.metadata.at("cases"), "cases");
  ASSERT_EQ(cases.size(), 2U);
  for (const Json& one : cases) {
    const EDMPreconditioner edm(one.get<double>());
    const std::string name = one.dump() + ".";
    const auto expect = [&](const Tensor& actual, const std::string& key) {
      expect_close(actual, golden[name + key], 1e-10, 1e-12, name + key);
    };
    const Tensor& sigma = golden["sigma"];
    expect(edm.c_in(sigma), "c_in");
    expect(edm.c_skip(sigma), "c_skip");
    expect(edm.c_out(sigma), "c_out");
    expect(edm.c_noise(sigma), "c_noise");
    expect(edm.loss_weight(sigma), "weight");
    const Tensor& noisy = golden[name + "noisy"];
    expect(edm.precondition_inputs(noisy, sigma), "inputs");
    const Denoiser model = formula_model(reference_network).denoise;
    expect(edm.denoise(model, noisy, sigma), "denoised");
    // All samples have the same noise level.
    expect_close(edm.denoise(model, noisy, sigma[3]).select(0, 3), golden[name + "denoised"][3], 1e-10,
                 1e-12);
  }
}

TEST(EDMPreconditioner, IsTheIdentityWithoutNoise) {
  const EDMPreconditioner edm;
  const Denoiser model = formula_model(reference_network).denoise;
  const Tensor x = at::linspace(-3, 3, 24, at::kDouble).view({2, 1, 3, 4});
  expect_close(edm.denoise(model, x, at::full({}, 1e-10, at::kDouble)), x, 1e-8, 1e-8);
}

TEST(EDMPreconditioner, GivesTheModelInputsAndTargetsOfUnitVariance) {
  const Generator generator = make_generator(6);
  for (const double sigma_data : {0.5, 2.0}) {
    const EDMPreconditioner edm(sigma_data);
    for (const double level : {0.01, 0.5, 40.0}) {
      const Tensor x0 = sigma_data * at::randn({1, 200'000}, generator);
      const Tensor noise = at::randn({1, 200'000}, generator);
      const Tensor sigma = at::full({1}, level);
      // The limit is four standard deviations of the estimate, each sqrt(2 / n).
      EXPECT_NEAR(edm.target(x0, noise, sigma).var().item<double>(), 1, 0.013) << level;
      EXPECT_NEAR(edm.precondition_inputs(x0 + level * noise, sigma).var().item<double>(), 1, 0.013) << level;
    }
  }
}

TEST(EDMPreconditioner, NamesTheShapesThatDoNotFit) {
  // A model with twice the channels, and a wrong number of noise levels.
  const EDMPreconditioner edm;
  const Denoiser twice = formula_model([](const Tensor& x, const Tensor&) {
                           return at::cat({x, x}, 1);
                         }).denoise;
  const Tensor x = at::zeros({2, 1, 3, 3});
  expect_throws_with<TensorError>([&] { edm.denoise(twice, x, at::ones({2})); }, "float32 [2, 2, 3, 3]");
  expect_throws_with<TensorError>([&] { edm.denoise(twice, x, at::ones({3})); }, "sigma is float32 [3]");
  expect_throws_with<TensorError>([&] { edm.precondition_inputs(at::zeros({2}, at::kLong), at::ones({2})); },
                                  "int64 [2]");
}

}  // namespace
}  // namespace diffusers
