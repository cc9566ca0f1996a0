#include "pipelines/scheduler_traits.h"

#include <diffusers/core/logging.h>

#include "core/json.h"
#include "core/require.h"

namespace diffusers {

bool takes_eta(const Scheduler& scheduler) {
  return scheduler.class_name() == "DDIMScheduler" || scheduler.class_name() == "TCDScheduler";
}

bool adds_noise_by_scale_noise(const Scheduler& scheduler) {
  return scheduler.class_name().starts_with("FlowMatch");
}

std::unique_ptr<Scheduler> scheduler_for_latents(const Scheduler& scheduler) {
  Json config = parse_json(scheduler.config_json(), "the scheduler's config");
  bool is_changed = false;
  const auto correct = [&](const char* key, const Json& value) {
    warn_once(fmt::format("{}: {} is {} in the config, Stable Diffusion is sampled with {}",
                          scheduler.class_name(), key, config[key].dump(), value.dump()));
    config[key] = value;
    // A key listed there counts as missing.
    if (const auto defaults = config.find("_use_default_values"); defaults != config.end())
      std::erase(defaults->get_ref<Json::array_t&>(), Json(key));
    is_changed = true;
  };
  if (config.contains("steps_offset") && config["steps_offset"] != 1) correct("steps_offset", 1);
  if (config.contains("clip_sample") && config["clip_sample"] == true) correct("clip_sample", false);
  return is_changed ? Scheduler::from_config(dump_json(config)) : scheduler.clone();
}

}  // namespace diffusers
