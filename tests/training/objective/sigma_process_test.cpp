#include "training/objective/sigma_process.h"

#include <diffusers/core/random.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;

TEST(SigmaProcess, HasTheInputOfTheScheduler) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble})
    for (const bool ends_at_zero : {false, true}) {
      const EulerDiscreteScheduler scheduler(
          {.prediction_type = "v_prediction", .rescale_betas_zero_snr = ends_at_zero});
      const SigmaProcess process(scheduler, {});
      const Generator generator = make_generator(5);
      const Tensor x0 = at::randn({4, 2, 3, 3}, generator, dtype);
      const Tensor noise = at::randn({4, 2, 3, 3}, generator, dtype);
      const Tensor t = at::tensor({0, 17, 998, 999}, at::kLong);
      const Tensor x_t = process.noisy(x0, noise, t);
      EXPECT_EQ(x_t.scalar_type(), dtype);
      expect_equal(x_t, scheduler.add_noise(x0, noise, t));
      const Tensor input = process.model_input(x_t, t);
      for (int64_t i = 0; i < 4; ++i)
        expect_close(input[i], scheduler.scale_model_input(x_t[i], t[i].to(at::kFloat)), 1e-6, 0);
      // The same process in the other coordinates.
      const VariancePreservingProcess preserving(scheduler, PredictionType::kVPrediction, {});
      expect_close(input, preserving.noisy(x0, noise, t), 1e-5, 1e-6);
      expect_equal(process.target(x0, noise, t), preserving.target(x0, noise, t));
      expect_equal(process.model_time(t), t);
    }
}

TEST(SigmaProcess, WeighsAsTheOthers) {
  const EulerDiscreteScheduler scheduler;
  const DiffusionLossOptions options{.snr_gamma = 5.0};
  const Tensor t = at::tensor({0, 17, 999}, at::kLong);
  expect_equal(SigmaProcess(scheduler, options).weight(t),
               VariancePreservingProcess(scheduler, PredictionType::kEpsilon, options).weight(t));
}

}  // namespace
}  // namespace diffusers
