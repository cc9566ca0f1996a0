#pragma once

// Timesteps of the schedulers for consistency-distilled models (LCM, TCD).

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <vector>

#include <diffusers/core/logging.h>

#include "core/require.h"
#include "schedulers/step_math.h"

namespace diffusers {
inline namespace internal {

/// The timesteps of a run and its number of steps. The number is larger than the count of timesteps if
/// `strength` drops some of the custom timesteps.
struct DistilledTimesteps {
  std::vector<double> timesteps;
  int64_t num_inference_steps = 0;
};

/// Chooses `num_inference_steps` of the timesteps that the model was distilled on, evenly spaced from the
/// noisiest.
/// @param all_timesteps true if the model was distilled on every timestep instead of every (T /
///   original_steps)-th
inline DistilledTimesteps distilled_timesteps(std::string_view who,
                                              std::optional<int64_t> num_inference_steps,
                                              const SetTimestepsOptions& options, int64_t num_train_timesteps,
                                              int64_t original_steps, bool all_timesteps) {
  const bool custom = !options.timesteps.empty();
  require<ConfigError>(custom != num_inference_steps.has_value(),
                       "{}: set_timesteps takes exactly one of num_inference_steps and timesteps", who);
  const double strength = options.strength.value_or(1.0);
  require<ConfigError>(strength > 0 && strength <= 1, "{}: strength is {}, expected more than 0, at most 1",
                       who, strength);
  require<ConfigError>(original_steps >= 1 && (all_timesteps || original_steps <= num_train_timesteps),
                       "{}: original_inference_steps is {}, expected 1 to num_train_timesteps = {}", who,
                       original_steps, num_train_timesteps);
  std::vector<double> origin;
  if (all_timesteps) {
    for (int64_t t = 0; t < static_cast<int64_t>(static_cast<double>(num_train_timesteps) * strength); ++t)
      origin.push_back(static_cast<double>(t));
  } else {
    const int64_t stride = num_train_timesteps / original_steps;
    for (int64_t i = 1; i <= static_cast<int64_t>(static_cast<double>(original_steps) * strength); ++i)
      origin.push_back(static_cast<double>(i * stride - 1));
  }
  std::reverse(origin.begin(), origin.end());

  DistilledTimesteps result;
  if (custom) {
    check_custom_timesteps(who, options.timesteps, num_train_timesteps);
    const bool distilled = std::all_of(options.timesteps.begin() + 1, options.timesteps.end(), [&](double t) {
      return std::find(origin.begin(), origin.end(), t) != origin.end();
    });
    if (!distilled)
      warn_once(fmt::format("{}: the custom timesteps hold some that the model was not distilled on", who));
    const auto count = static_cast<int64_t>(options.timesteps.size());
    const auto kept = std::min(static_cast<int64_t>(static_cast<double>(count) * strength), count);
    result.timesteps.assign(options.timesteps.end() - kept, options.timesteps.end());
    result.num_inference_steps = count;
    return result;
  }
  const int64_t n = checked_num_inference_steps(who, num_inference_steps, num_train_timesteps);
  const auto available = static_cast<int64_t>(origin.size());
  require<ConfigError>(
      n <= available && n <= original_steps,
      "{}: num_inference_steps is {}, expected at most original_inference_steps x strength = {}", who, n,
      std::min(available, original_steps));
  const double step = static_cast<double>(available) / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i)
    result.timesteps.push_back(origin[static_cast<std::size_t>(std::floor(static_cast<double>(i) * step))]);
  result.num_inference_steps = n;
  return result;
}

}  // namespace internal
}  // namespace diffusers
