#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/sigma_run.h>

namespace diffusers {

/// Base of the schedulers that run along a list of noise levels.
/// @tparam Derived the derived class
/// @tparam ConfigType its config; see ConfiguredScheduler
template <class Derived, class ConfigType>
class SigmaScheduler : public ConfiguredScheduler<Derived, ConfigType> {
 public:
  /// Returns the noise levels of the run, float32 on the CPU.
  Tensor sigmas() const override { return run_.sigmas(); }
  /// Returns the timesteps of the run, in order.
  Timesteps timesteps() const override { return run_.timesteps().tensor(); }
  /// Sets the position in `timesteps()` at which a run starts (image to image).
  /// @param begin_index position from 0
  /// @throws ConfigError if there is no such position
  void set_begin_index(int64_t begin_index = 0) override { run_.set_begin_index(begin_index); }
  /// Returns true: the class has `set_begin_index`.
  bool has_begin_index() const override { return true; }
  /// Returns the position of the next step; nullopt before the first step.
  std::optional<int64_t> step_index() const { return run_.step_index(); }
  /// Returns the position of `set_begin_index`; nullopt if it was not called.
  std::optional<int64_t> begin_index() const { return run_.begin_index(); }

 protected:
  using ConfiguredScheduler<Derived, ConfigType>::ConfiguredScheduler;

  SigmaRun run_;  ///< The noise levels and timesteps of the run, and its position.
};

}  // namespace diffusers
