#include "pipelines/scheduler_traits.h"

#include <vector>

#include <diffusers/core/logging.h>

#include "core/require.h"

namespace diffusers {

std::unique_ptr<Scheduler> scheduler_for_latents(const Scheduler& scheduler) {
  std::vector<ConfigOverride> corrections;
  const auto correct = [&](const char* key, const ConfigValue& found, const ConfigValue& value) {
    warn_once(fmt::format("{}: {} is {} in the config, Stable Diffusion is sampled with {}",
                          scheduler.class_name(), key, found.json(), value.json()));
    corrections.push_back({key, value});
  };
  const int64_t steps_offset = scheduler.steps_offset().value_or(1);
  if (steps_offset != 1) correct("steps_offset", steps_offset, 1);
  if (scheduler.clip_sample().value_or(false)) correct("clip_sample", true, false);
  return corrections.empty() ? scheduler.clone()
                             : Scheduler::from_config(scheduler.config_json(), corrections);
}

}  // namespace diffusers
