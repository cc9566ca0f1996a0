#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/sigma_run.h>

namespace diffusers {

/// The part that schedulers along a list of noise levels share.
/// @tparam Derived the class itself
/// @tparam ConfigType its config; see ConfiguredScheduler
template <class Derived, class ConfigType>
class SigmaScheduler : public ConfiguredScheduler<Derived, ConfigType> {
 public:
  Tensor sigmas() const override { return run_.sigmas(); }
  Timesteps timesteps() const override { return run_.timesteps().tensor(); }
  void set_begin_index(int64_t begin_index = 0) override { run_.set_begin_index(begin_index); }
  bool has_begin_index() const override { return true; }
  /// The step that comes next; none before the first.
  std::optional<int64_t> step_index() const { return run_.step_index(); }
  /// The step at which the run begins; none if none was set.
  std::optional<int64_t> begin_index() const { return run_.begin_index(); }

 protected:
  using ConfiguredScheduler<Derived, ConfigType>::ConfiguredScheduler;

  SigmaRun run_;
};

}  // namespace diffusers
