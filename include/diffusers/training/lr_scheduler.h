#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace diffusers {

struct LRSchedulerOptions {
  /// piecewise_constant: "1:10,0.1:20,0.01:30,0.005" is factor 1 before step 10, 0.1 before 20, 0.01 before
  /// 30, then 0.005.
  std::string step_rules = {};
  std::optional<int64_t> num_warmup_steps = std::nullopt;
  std::optional<int64_t> num_training_steps = std::nullopt;
  int64_t num_cycles = 1;  ///< cosine_with_restarts only, as in Python
  double power = 1.0;      ///< polynomial only
  double lr_init =
      1e-3;  ///< polynomial only: the optimizer's learning rate, which its end rate of 1e-7 is relative to
};

/// Step (from 0) -> factor on the learning rate.
using LRSchedule = std::function<double(int64_t)>;

/// The schedules of `diffusers.optimization.get_scheduler`.
/// @param name constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial or
/// piecewise_constant
/// @throws ConfigError for an unknown name, and for an option that the schedule needs and that is missing or
/// senseless
LRSchedule get_scheduler(std::string_view name, const LRSchedulerOptions& options = {});

}  // namespace diffusers
