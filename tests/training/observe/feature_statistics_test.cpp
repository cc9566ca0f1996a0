#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include <diffusers/core/random.h>
#include <diffusers/training/feature_statistics.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_throws_with;

TEST(FeatureStatistics, MatchNumpy) {
  const test::Golden golden = test::load_golden("feature_statistics.safetensors");
  for (const char* name : {"a", "b", "few"}) {
    const FeatureStatistics statistics = feature_statistics(golden[name]);
    EXPECT_EQ(statistics.count, golden[name].size(0));
    expect_close(statistics.mean, golden[std::string(name) + ".mean"], 1e-12, 1e-12, name);
    expect_close(statistics.covariance, golden[std::string(name) + ".covariance"], 1e-12, 1e-12, name);
  }
  const FeatureStatistics a = feature_statistics(golden["a"]);
  const FeatureStatistics b = feature_statistics(golden["b"]);
  EXPECT_NEAR(frechet_distance(a, b), golden["a_b"].item<double>(), 1e-9);
  EXPECT_NEAR(frechet_distance(b, a), golden["a_b"].item<double>(), 1e-9);
  // Eigenvalues that are zero but for rounding have a root of 1e-8.
  EXPECT_NEAR(frechet_distance(a, feature_statistics(golden["few"])), golden["a_few"].item<double>(), 1e-6);
  EXPECT_NEAR(frechet_distance(a, a), 0.0, 1e-9);
}

TEST(FeatureStatistics, TakeAnyNetworkInBatches) {
  const Tensor images = at::rand({10, 1, 4, 4}, make_generator(1));
  int64_t largest = 0;
  const FeatureNetwork network = [&](const Tensor& batch) {
    largest = std::max(largest, batch.size(0));
    return at::cat({batch.mean({1, 2}), batch.amax({1, 2})}, 1);
  };
  const FeatureStatistics in_parts = feature_statistics(images, network, 3);
  EXPECT_EQ(largest, 3);
  const FeatureStatistics whole = feature_statistics(network(images));
  EXPECT_EQ(in_parts.count, 10);
  expect_close(in_parts.mean, whole.mean, 1e-12, 1e-12);
  expect_close(in_parts.covariance, whole.covariance, 1e-12, 1e-12);
  EXPECT_FALSE(feature_statistics(images.clone().requires_grad_(true), network).mean.requires_grad());
}

TEST(FeatureStatistics, NameWhatDoesNotFit) {
  const FeatureNetwork flat = [](const Tensor& batch) { return batch.flatten(1); };
  expect_throws_with<TensorError>([] { feature_statistics(at::zeros({1, 3})); }, "expected at least 2 rows");
  expect_throws_with<TensorError>([] { feature_statistics(at::zeros({3})); },
                                  "expected a floating tensor [N, D]");
  expect_throws_with<TensorError>([] { feature_statistics(at::zeros({3, 2}, at::kLong)); }, "int64");
  Tensor broken = at::zeros({3, 2});
  broken[1][0] = std::numeric_limits<float>::quiet_NaN();
  expect_throws_with<TensorError>([&] { feature_statistics(broken); }, "not finite");
  expect_throws_with<ConfigError>(
      [] {
        feature_statistics(at::zeros({3, 1, 2, 2}), FeatureNetwork());
      },
      "an empty function");
  expect_throws_with<ConfigError>(
      [&] {
        feature_statistics(at::zeros({3, 1, 2, 2}), flat, 0);
      },
      "batch_size is 0");
  expect_throws_with<TensorError>([&] { feature_statistics(at::zeros({1, 1, 2, 2}), flat); }, "N at least 2");
  expect_throws_with<TensorError>(
      [] {
        feature_statistics(at::zeros({4, 1, 2, 2}), [](const Tensor& batch) { return batch; });
      },
      "the feature network gives");

  const FeatureStatistics three = feature_statistics(at::rand({5, 3}));
  const FeatureStatistics four = feature_statistics(at::rand({5, 4}));
  expect_throws_with<TensorError>([&] { frechet_distance(three, four); }, "of 3 features, the second of 4");
  expect_throws_with<TensorError>([&] { frechet_distance({}, three); }, "the first statistics have a mean");
  FeatureStatistics infinite = three;
  infinite.covariance = three.covariance / 0.0;
  expect_throws_with<TensorError>([&] { frechet_distance(three, infinite); },
                                  "the second statistics have values");
}

}  // namespace
}  // namespace diffusers
