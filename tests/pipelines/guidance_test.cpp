#include <limits>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/pipelines/guidance.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

/// A model that depends on its labels: sample * (label + 1) + timestep.
Tensor labelled(const Tensor& sample, const Tensor& timesteps, const Conditioning& conditioning) {
  EXPECT_EQ(sample.size(0), conditioning.class_labels.size(0));
  const Tensor t = timesteps.dim() > 0 ? timesteps.view({-1, 1, 1, 1}) : timesteps;
  return sample * (conditioning.class_labels + 1).view({-1, 1, 1, 1}) + t;
}

TEST(ClassifierFreeGuidance, GoesBeyondTheConditionalPrediction) {
  const Tensor x = randn_tensor({2, 3, 4, 4}, make_generator(1));
  const Conditioning both{.class_labels = at::tensor({0, 0, 1, 2}, at::kLong)};
  const Tensor t = at::scalar_tensor(0.5);
  const Tensor unconditional = labelled(x, t, both.slice(0, 2));
  const Tensor conditional = labelled(x, t, both.slice(2, 4));
  const auto guided = [&](double scale) {
    return classifier_free_guidance(labelled, {.guidance_scale = scale})(x, t, both);
  };
  EXPECT_TRUE(guided(3).equal(unconditional + 3 * (conditional - unconditional)));
  test::expect_close(guided(1), conditional);
  EXPECT_TRUE(guided(0).equal(unconditional));
  // One timestep for each sample.
  const Tensor each = at::tensor({0.5, 0.25});
  EXPECT_TRUE(classifier_free_guidance(labelled, {.guidance_scale = 0})(x, each, both)
                  .equal(labelled(x, each, both.slice(0, 2))));
}

TEST(ClassifierFreeGuidance, RunsTheModelOnce) {
  int calls = 0;
  const Denoiser counted = [&](const Tensor& sample, const Tensor&, const Conditioning&) {
    ++calls;
    EXPECT_EQ(sample.size(0), 4);
    return sample;
  };
  classifier_free_guidance(counted)(at::ones({2, 1, 2, 2}), at::scalar_tensor(1), {});
  EXPECT_EQ(calls, 1);
}

TEST(ClassifierFreeGuidance, RescalesToTheDeviationOfTheConditionalPrediction) {
  const Tensor x = randn_tensor({2, 3, 4, 4}, make_generator(1));
  const Conditioning both{.class_labels = at::tensor({0, 0, 1, 2}, at::kLong)};
  const Tensor t = at::scalar_tensor(0.5);
  const Tensor conditional = labelled(x, t, both.slice(2, 4));
  const auto guided = [&](double rescale) {
    return classifier_free_guidance(labelled, {.guidance_scale = 5, .guidance_rescale = rescale})(x, t, both);
  };
  const auto deviation = [](const Tensor& tensor) { return tensor.flatten(1).std(1); };
  test::expect_close(deviation(guided(1)), deviation(conditional));
  test::expect_close(guided(0.7), 0.7 * guided(1) + 0.3 * guided(0));
  EXPECT_TRUE(guided(0.7).equal(rescale_guidance(guided(0), conditional, 0.7)));
}

TEST(ClassifierFreeGuidance, NamesWhatCannotWork) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  test::expect_throws_with<ConfigError>([] { classifier_free_guidance({}); },
                                        "denoiser is an empty function");
  test::expect_throws_with<ConfigError>([&] { classifier_free_guidance(labelled, {.guidance_scale = nan}); },
                                        "guidance_scale is nan");
  test::expect_throws_with<ConfigError>(
      [&] { classifier_free_guidance(labelled, {.guidance_rescale = nan}); }, "guidance_rescale is nan");
  test::expect_throws_with<TensorError>(
      [] {
        classifier_free_guidance(labelled)(at::ones({2, 1, 2, 2}), at::scalar_tensor(1),
                                           {.class_labels = at::tensor({1, 2}, at::kLong)});
      },
      "class_labels is int64 [2] on cpu, expected 4 rows for a batch of 2");
}

}  // namespace
}  // namespace diffusers
