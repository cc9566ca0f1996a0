#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include <diffusers/training/post_hoc_ema.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;

constexpr int64_t kWalkSteps = 256;

/// A training whose weights are a random walk in float64.
struct Walk {
  explicit Walk(const std::vector<double>& sigma_rels)
      : path(at::cumsum(at::randn({kWalkSteps, 5, 2}, at::TensorOptions().dtype(at::kDouble)), 0)),
        parameters{{"net.weight", at::zeros({5, 2}, at::kDouble).requires_grad_()},
                   {"frozen", at::ones({3}, at::kDouble)}},
        ema(parameters, {.sigma_rels = sigma_rels}) {}

  void step(PostHocEma& average) {
    parameters.at("net.weight").detach().copy_(path[average.optimization_step()]);
    average.step(parameters);
  }

  /// Computes the average at `step` from its definition: weights s^gamma, integrated over the unit interval
  /// of each step.
  Tensor direct(double sigma_rel, int64_t step) const {
    const double exponent = sigma_rel_to_gamma(sigma_rel) + 1;
    const Tensor ends = at::arange(step + 1, at::kDouble).div(static_cast<double>(step)).pow(exponent);
    const Tensor weights = ends.slice(0, 1) - ends.slice(0, 0, step);
    return (weights.view({-1, 1, 1}) * path.slice(0, 0, step)).sum(0);
  }

  Tensor path;
  TensorMap parameters;
  PostHocEma ema;
};

TEST(PostHocEma, GammaAndWidthAreInverse) {
  const test::Golden golden = test::load_golden("training_post_hoc_ema.safetensors");
  const Tensor& sigma_rels = golden["sigma_rel"];
  for (int64_t i = 0; i < sigma_rels.size(0); ++i) {
    const double sigma_rel = sigma_rels[i].item<double>();
    const double gamma = sigma_rel_to_gamma(sigma_rel);
    EXPECT_NEAR(gamma, golden["gamma"][i].item<double>(), 1e-10 * (1 + gamma)) << sigma_rel;
    EXPECT_NEAR(gamma_to_sigma_rel(gamma), sigma_rel, 1e-14);
  }
  // The values of the paper, and the plain mean.
  EXPECT_NEAR(sigma_rel_to_gamma(0.05), 16.97, 0.005);
  EXPECT_NEAR(sigma_rel_to_gamma(0.10), 6.94, 0.005);
  EXPECT_NEAR(sigma_rel_to_gamma(1 / std::sqrt(12.0)), 0.0, 1e-7);
  expect_throws_with<ConfigError>([] { sigma_rel_to_gamma(0.3); }, "sigma_rel is 0.3");
  expect_throws_with<ConfigError>([] { sigma_rel_to_gamma(0.0); }, "sigma_rel is 0");
}

TEST(PostHocEma, AveragesByTheProfile) {
  at::manual_seed(1);
  Walk walk({0.05, 0.2});
  for (int64_t step = 1; step <= kWalkSteps; ++step) {
    walk.step(walk.ema);
    if (step != 1 && step != 7 && step != kWalkSteps) continue;
    expect_close(walk.ema.average(0).at("net.weight"), walk.direct(0.05, step), 1e-11, 1e-12);
    expect_close(walk.ema.average(1).at("net.weight"), walk.direct(0.2, step), 1e-11, 1e-12);
  }
  EXPECT_FALSE(walk.ema.average(0).contains("frozen"));
  walk.ema.copy_to(walk.parameters, 1);
  expect_equal(walk.parameters.at("net.weight").detach(), walk.ema.average(1).at("net.weight"));
}

TEST(PowerEma, CoefficientsMatchPython) {
  const test::Golden golden = test::load_golden("training_post_hoc_ema.safetensors");
  const Json cases = parse_json(golden.metadata.at("cases"), "cases");
  for (std::size_t number = 0; number < cases.size(); ++number) {
    const Json& one = cases.at(number);
    std::vector<PowerEmaProfile> profiles;
    for (const Json& profile : one.at("profiles"))
      profiles.push_back({profile.at(0).get<int64_t>(), profile.at(1).get<double>()});
    const PowerEmaSolution solution =
        solve_power_ema(profiles, {one.at("step").get<int64_t>(), one.at("sigma_rel").get<double>()});
    const std::string prefix = std::to_string(number) + ".";
    expect_close(at::tensor(solution.coefficients, at::kDouble), golden[prefix + "coefficients"], 1e-9, 1e-10,
                 one.dump());
    EXPECT_NEAR(solution.relative_error, golden[prefix + "relative_error"].item<double>(), 1e-9);
  }
}

// The error of a reconstruction is bounded. It is the integral of r, the difference of the profiles, over the
// path of the weights, so it is at most |r| |path| (Cauchy-Schwarz), and |r| = relative_error |profile| is
// known. A random walk is smooth compared with r, which oscillates between the snapshots, so its error is far
// smaller.
TEST(PowerEma, ReconstructsAThirdWidth) {
  at::manual_seed(2);
  const test::TemporaryFolder folder;
  Walk walk({0.05, 0.10});
  for (int64_t step = 1; step <= kWalkSteps; ++step) {
    walk.step(walk.ema);
    if (step % 8 == 0) walk.ema.save_snapshots(folder.path(), at::kDouble);
  }
  const std::vector<PowerEmaSnapshot> snapshots = list_power_ema_snapshots(folder.path());
  ASSERT_EQ(snapshots.size(), 64U);
  const double length = std::sqrt(walk.path.square().sum(0).max().item<double>());
  for (const auto& [sigma_rel, step, accuracy] : {std::tuple{0.07, kWalkSteps, 2e-4},
                                                  {0.085, kWalkSteps, 2e-4},
                                                  {0.15, kWalkSteps, 5e-4},
                                                  {0.07, int64_t{128}, 1e-3}}) {
    const PowerEmaReconstruction result = reconstruct_power_ema(snapshots, sigma_rel, step);
    EXPECT_EQ(result.profile.step, step);
    const Tensor expected = walk.direct(sigma_rel, step);
    const double error = (result.tensors.at("net.weight") - expected).abs().max().item<double>();
    // |profile|^2 = (gamma + 1)^2 / ((2 gamma + 1) t)
    const double gamma = sigma_rel_to_gamma(sigma_rel);
    const double profile = (gamma + 1) / std::sqrt((2 * gamma + 1) * static_cast<double>(step));
    EXPECT_LE(error, result.relative_error * profile * length) << sigma_rel << " at " << step;
    EXPECT_LE(error, accuracy * expected.abs().max().item<double>()) << sigma_rel << " at " << step;
    EXPECT_EQ(result.tensors.keys(), (std::vector<std::string>{"net.weight"}));
  }
}

TEST(PowerEma, IsExactForAStoredWidth) {
  at::manual_seed(3);
  const test::TemporaryFolder folder;
  Walk walk({0.05, 0.10});
  TensorMap then;
  for (int64_t step = 1; step <= 32; ++step) {
    walk.step(walk.ema);
    if (step % 8 == 0) walk.ema.save_snapshots(folder.path(), at::kDouble);
    if (step == 16) then.insert("net.weight", walk.ema.average(1).at("net.weight").clone());
  }
  const auto snapshots = list_power_ema_snapshots(folder.path());
  expect_equal(reconstruct_power_ema(snapshots, 0.05).tensors.at("net.weight"),
               walk.ema.average(0).at("net.weight"));
  const PowerEmaReconstruction earlier = reconstruct_power_ema(snapshots, 0.10, 16);
  expect_equal(earlier.tensors.at("net.weight"), then.at("net.weight"));
  EXPECT_EQ(earlier.relative_error, 0.0);
  // The equations give the same result for a width that is almost equal to a stored one.
  const auto near = reconstruct_power_ema(snapshots, 0.10 + 1e-12, 16);
  expect_close(near.tensors.at("net.weight"), then.at("net.weight"), 1e-8, 1e-8);
}

TEST(PowerEma, SnapshotsMayBeHalfPrecise) {
  at::manual_seed(4);
  const test::TemporaryFolder exact, half;
  Walk walk({0.05, 0.10});
  for (int64_t step = 1; step <= 64; ++step) {
    walk.step(walk.ema);
    if (step % 8 != 0) continue;
    walk.ema.save_snapshots(exact.path());
    walk.ema.save_snapshots(half.path(), at::kHalf);
  }
  const SafetensorsFile file(half / "power_ema-64-0.05.safetensors");
  EXPECT_EQ(file.info("net.weight").dtype, at::kHalf);
  EXPECT_EQ(file.metadata().at("step"), "64");
  EXPECT_EQ(file.metadata().at("sigma_rel"), "0.05");
  const Tensor want =
      reconstruct_power_ema(list_power_ema_snapshots(exact.path()), 0.07).tensors.at("net.weight");
  const Tensor got =
      reconstruct_power_ema(list_power_ema_snapshots(half.path()), 0.07).tensors.at("net.weight");
  EXPECT_EQ(want.scalar_type(), at::kFloat);
  // Each snapshot is rounded to 2^-11 of its value, and the sum of the absolute coefficients is less than 2.
  expect_close(got, want, 0, 2 * 0x1p-11 * walk.path.abs().max().item<double>());
  walk.parameters.at("net.weight").detach().fill_(1e30);
  walk.ema.step(walk.parameters);
  expect_throws_with<TensorError>([&] { walk.ema.save_snapshots(half.path(), at::kHalf); },
                                  "not finite in float16");
  expect_throws_with<ConfigError>([&] { walk.ema.save_snapshots(half.path(), at::kBFloat16); }, "bfloat16");
}

TEST(PostHocEma, GoesOnExactlyFromASavedState) {
  at::manual_seed(5);
  const test::TemporaryFolder folder;
  Walk walk({0.05, 0.10});
  for (int64_t step = 0; step < 20; ++step) walk.step(walk.ema);
  save_safetensors(walk.ema.state_dict(), folder / "state.safetensors");
  PostHocEma loaded(walk.parameters);
  loaded.load_state_dict(load_safetensors(folder / "state.safetensors"));
  EXPECT_EQ(loaded.optimization_step(), 20);
  for (int64_t step = 0; step < 5; ++step) {
    walk.step(loaded);
    walk.step(walk.ema);
  }
  for (std::size_t i = 0; i < 2; ++i)
    expect_equal(loaded.average(i).at("net.weight"), walk.ema.average(i).at("net.weight"));

  PostHocEma other(walk.parameters, {.sigma_rels = {0.05, 0.15}});
  expect_throws_with<ConfigError>([&] { other.load_state_dict(walk.ema.state_dict()); }, "sigma_rels");
  TensorMap incomplete = walk.ema.state_dict();
  incomplete.erase("1.net.weight");
  expect_throws_with<TensorError>([&] { loaded.load_state_dict(incomplete); }, "1.net.weight");
}

TEST(PostHocEma, NamesWhatCannotWork) {
  Walk walk({0.05});
  const auto& parameters = walk.parameters;
  expect_throws_with<ConfigError>([&] { PostHocEma(parameters, {.sigma_rels = {}}); }, "sigma_rels is empty");
  expect_throws_with<ConfigError>([&] { PostHocEma(parameters, {.sigma_rels = {0.1, 0.1}}); }, "0.1 twice");
  expect_throws_with<ConfigError>([&] { PostHocEma(parameters, {.sigma_rels = {0.5}}); }, "sigma_rel is 0.5");
  const test::TemporaryFolder folder;
  expect_throws_with<Error>([&] { walk.ema.save_snapshots(folder.path()); }, "nothing was averaged");
  EXPECT_TRUE(list_power_ema_snapshots(folder.path()).empty());
  expect_throws_with<ConfigError>([] { reconstruct_power_ema({}, 0.1); }, "no snapshots");

  walk.step(walk.ema);
  walk.ema.save_snapshots(folder.path());
  const auto snapshots = list_power_ema_snapshots(folder.path());
  expect_throws_with<ConfigError>([&] { reconstruct_power_ema(snapshots, 0.1, 9); }, "step is 9");
  // A snapshot of another model, and one with invalid metadata.
  save_safetensors({{"other", at::zeros({5, 2})}}, folder / "power_ema-1-0.2.safetensors",
                   {{"step", "1"}, {"sigma_rel", "0.2"}});
  expect_throws_with<FileError>([&] { reconstruct_power_ema(list_power_ema_snapshots(folder.path()), 0.1); },
                                "\"other\"");
  save_safetensors({{"other", at::zeros({5, 2})}}, folder / "power_ema-1-0.2.safetensors", {{"step", "one"}});
  expect_throws_with<FileError>([&] { list_power_ema_snapshots(folder.path()); }, "step in the metadata");
}

}  // namespace
}  // namespace diffusers
