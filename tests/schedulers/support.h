#pragma once

// Functions that replay the runs that tests/reference/schedulers.py recorded.

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/schedulers/scheduler.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers::test {

inline at::ScalarType dtype_from_name(const std::string& name) {
  for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kLong})
    if (dtype_name(dtype) == name) return dtype;
  throw Error("unknown dtype " + name);
}

/// Draws standard normal numbers from a seed, in float32, and converts them to dtype.
inline Tensor seeded(uint64_t seed, at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return randn_tensor(shape, make_generator(seed)).to(dtype);
}

inline StepOptions step_options(const Json& json) {
  StepOptions options{.use_clipped_model_output = json.value("use_clipped_model_output", false),
                      .s_churn = json.value("s_churn", 0.0),
                      .s_tmin = json.value("s_tmin", 0.0),
                      .s_tmax = json.value("s_tmax", std::numeric_limits<double>::infinity()),
                      .s_noise = json.value("s_noise", 1.0)};
  if (json.contains("eta")) options.eta = json["eta"].get<double>();
  if (json.contains("order")) options.order = json["order"].get<int64_t>();
  options.generator = make_generator(7);
  return options;
}

inline SetTimestepsOptions set_timesteps_options(const Json& json) {
  SetTimestepsOptions options;
  if (json.contains("original_inference_steps"))
    options.original_inference_steps = json["original_inference_steps"].get<int64_t>();
  if (json.contains("sigmas")) options.sigmas = json["sigmas"].get<std::vector<double>>();
  if (json.contains("mu")) options.mu = json["mu"].get<double>();
  if (json.contains("timesteps")) options.timesteps = json["timesteps"].get<std::vector<double>>();
  if (json.contains("strength")) options.strength = json["strength"].get<double>();
  if (json.contains("num_train_timesteps"))
    options.num_train_timesteps = json["num_train_timesteps"].get<int64_t>();
  return options;
}

/// Returns the tolerance of a loop, usually 1e-5. It is larger in half precision, which rounds at every
/// operation. It is larger for UniPC from order 4 on, which solves a linear system in float32 whose
/// right-hand side is a difference of nearly equal numbers.
inline double loop_tolerance(const Json& loop, at::ScalarType dtype) {
  if (dtype == at::kHalf) return 2e-3;
  if (dtype == at::kBFloat16) return 1.6e-2;
  const bool steep =
      loop["class"] == "UniPCMultistepScheduler" && loop["config"].value("solver_order", 2) >= 4;
  return steep ? 5e-5 : 1e-5;
}

/// Replays one loop and compares timesteps, sigmas and every step, element by element.
/// @param steps_tolerance relative to the largest element; nullopt: loop_tolerance; 0: bit for bit
inline void replay_loop(const Json& loop, const Golden& golden,
                        std::optional<double> steps_tolerance = std::nullopt) {
  const auto name = loop["name"].get<std::string>();
  SCOPED_TRACE(name);
  const std::unique_ptr<Scheduler> scheduler = Scheduler::from_config(dump_json(loop["json"]));
  const bool set = !loop["n"].is_null() || !loop["set_timesteps"].empty();
  if (set)
    scheduler->set_timesteps(loop["n"].is_null() ? std::nullopt : std::optional(loop["n"].get<int64_t>()),
                             set_timesteps_options(loop["set_timesteps"]));
  if (!loop["begin_index"].is_null()) scheduler->set_begin_index(loop["begin_index"].get<int64_t>());
  const Timesteps timesteps = scheduler->timesteps();
  if (set) {
    const Tensor& expected = golden[name + "/timesteps"];
    EXPECT_EQ(timesteps.scalar_type(), expected.scalar_type());
    if (expected.is_floating_point()) {
      ASSERT_TRUE(expect_close(timesteps, expected, 1e-6, 1e-4, "timesteps"));
    } else {
      ASSERT_TRUE(expect_equal(timesteps, expected, "timesteps"));
    }
  }
  if (golden.contains(name + "/sigmas")) {
    ASSERT_TRUE(expect_close(scheduler->sigmas(), golden[name + "/sigmas"], 3e-6, 1e-7, "sigmas"));
  }
  const double sigma = loop["init_noise_sigma"].get<double>();
  EXPECT_NEAR(scheduler->init_noise_sigma(), sigma, 1e-6 * sigma);

  const auto dtype = dtype_from_name(loop["dtype"].get<std::string>());
  const double tolerance = steps_tolerance.value_or(loop_tolerance(loop, dtype));
  const auto width = loop["width"].get<int64_t>();
  const std::vector<int64_t> shape{2, 3, 2, 2};
  const std::vector<int64_t> output_shape{2, 3 * width, 2, 2};
  const StepOptions options = step_options(loop["step"]);
  const Tensor& prev = golden[name + "/prev"];
  const auto start = loop["start"].get<int64_t>();
  Tensor x = seeded(0, shape, dtype) * sigma;
  for (int64_t i = 0; i < prev.size(0); ++i) {
    const Tensor t = timesteps[start + i];
    const Tensor scaled = scheduler->scale_model_input(x, t).to(dtype);
    Tensor output = 0.6 * seeded(static_cast<uint64_t>(100 + i), output_shape, dtype) +
                    0.3 * at::cat(std::vector<Tensor>(static_cast<std::size_t>(width), scaled), 1);
    if (width == 2 && loop["config"].value("variance_type", "") == "learned")
      output = at::cat({output.narrow(1, 0, 3), output.narrow(1, 3, 3).abs() * 0.1}, 1);
    // A step adds terms of the size of the sample, which is sigma at a high noise level. The rounding error
    // has that scale, too.
    const double atol = tolerance * std::max(1.0, x.abs().max().item<double>());
    const SchedulerOutput result = scheduler->step(output, t, x, options);
    x = result.prev_sample;
    const std::string where = "step " + std::to_string(i);
    ASSERT_TRUE(expect_close(x, prev[i], tolerance, atol, where));
    if (golden.contains(name + "/x0")) {
      ASSERT_TRUE(expect_close(result.pred_original_sample, golden[name + "/x0"][i], tolerance, atol,
                               where + ", pred_original_sample"));
    }
    // In half precision, differences would grow from step to step and hide an error in a later step.
    if (dtype == at::kHalf || dtype == at::kBFloat16) x = prev[i];
  }
  EXPECT_EQ(dtype_name(x.scalar_type()), loop["prev_dtype"].get<std::string>());
}

}  // namespace diffusers::test
