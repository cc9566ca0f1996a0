#pragma once

// The bodies of ConfiguredScheduler; each scheduler's .cpp instantiates them for its config after
// `visit_fields`.

#include <type_traits>

#include <diffusers/schedulers/configured_scheduler.h>

#include "core/config_json.h"
#include "schedulers/registry.h"

namespace diffusers {

/// A config can hold a scheduler only in a program; files hold null.
inline void from(const Json& json, std::shared_ptr<Scheduler>& value, std::string_view key) {
  require<ConfigError>(json.is_null(), "{} is {}, expected null", key, json_excerpt(json));
  value = nullptr;
}
inline Json to(const std::shared_ptr<Scheduler>& value) {
  require<ConfigError>(value == nullptr, "a config that holds a scheduler cannot be written as JSON");
  return nullptr;
}

template <class Derived, class Config>
std::vector<std::string> ConfiguredScheduler<Derived, Config>::config_keys() {
  std::vector<std::string> keys;
  Config config;
  visit_fields(config, [&](const char* key, auto&) { keys.emplace_back(key); });
  return keys;
}

template <class Derived, class Config>
std::string ConfiguredScheduler<Derived, Config>::class_name() const {
  return std::string(Derived::kClassName);
}

template <class Derived, class Config>
Derived ConfiguredScheduler<Derived, Config>::from_config(std::string_view text, std::string_view overrides) {
  Json original = scheduler_config::parse(text, Derived::kClassName, overrides);
  Json fields = original;
  Config config;
  visit_fields(config, [&](const char* key, auto& field) {
    // Python takes None for false.
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(field)>, bool>) {
      if (fields.contains(key) && fields[key].is_null()) fields[key] = false;
    }
  });
  const Json unknown = config_json::fields_from_json(fields, config, Derived::kClassName);
  scheduler_config::warn_about_unknown_keys(unknown, original, Derived::kClassName);
  Derived scheduler(std::move(config));
  scheduler.loaded_ = dump_json(original);
  return scheduler;
}

template <class Derived, class Config>
Derived ConfiguredScheduler<Derived, Config>::from_pretrained(const std::filesystem::path& folder,
                                                              const SchedulerLoadOptions& options) {
  return from_config(scheduler_config::read(folder, options));
}

template <class Derived, class Config>
std::string ConfiguredScheduler<Derived, Config>::config_json() const {
  Json fields = config_json::fields_to_json(config_);
  Json defaults = config_json::fields_to_json(Config{});
  // The one list whose default is empty instead of None.
  if constexpr (requires { config_.disable_corrector; })
    for (Json* each : {&fields, &defaults})
      if ((*each)["disable_corrector"].is_null()) (*each)["disable_corrector"] = Json::array();
  return scheduler_config::compose(std::move(fields), defaults, loaded_, Derived::kClassName);
}

template <class Derived, class Config>
std::optional<double> ConfiguredScheduler<Derived, Config>::hidden_number(std::string_view key) const {
  if (loaded_.empty()) return std::nullopt;
  const Json loaded = parse_json(loaded_, Derived::kClassName);
  const auto found = loaded.find(std::string(key));
  return found != loaded.end() && found->is_number() ? std::optional(found->template get<double>())
                                                     : std::nullopt;
}

template <class Derived, class Config>
std::unique_ptr<Scheduler> ConfiguredScheduler<Derived, Config>::clone() const {
  return std::make_unique<Derived>(static_cast<const Derived&>(*this));
}

template <class Derived, class Config>
int64_t ConfiguredScheduler<Derived, Config>::num_train_timesteps() const {
  return config_.num_train_timesteps;
}

template <class Derived, class Config>
std::string ConfiguredScheduler<Derived, Config>::prediction_type_name() const {
  if constexpr (requires { config_.prediction_type; }) {
    return std::string(enum_name(config_.prediction_type));
  } else {
    return std::string(Derived::kPredictionTypeName);
  }
}

}  // namespace diffusers
