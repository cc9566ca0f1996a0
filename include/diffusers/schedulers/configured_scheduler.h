#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/core/config_visitor.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/schedulers/scheduler_config.h>

namespace diffusers {

/// Base of a scheduler class with a config struct. It implements reading and writing of the config, `clone`,
/// and the typed accessors of `Scheduler`.
///
/// Python's semantics (`configuration_utils.ConfigMixin`):
/// - A missing key takes its default.
/// - An unknown key is ignored, but kept and saved again. A warning reports it once, unless a compatible
///   scheduler has this key.
/// - `_class_name` may name another scheduler.
/// - A key that `_use_default_values` lists counts as missing. Python lists there the arguments that the
///   caller did not pass. A scheduler made from a struct lists the fields that hold their defaults.
///
/// @tparam Derived the derived class, with `static constexpr std::string_view kClassName` and a constructor
///   from its config
/// @tparam ConfigType an aggregate with Python's defaults, with
///   `void visit_fields(ConfigType&, ConfigVisitor&)` in its namespace
template <class Derived, class ConfigType>
class ConfiguredScheduler : public Scheduler {
 public:
  /// The config struct.
  using Config = ConfigType;

  /// Returns the config that the scheduler was made from. The constructor has checked its values.
  const Config& config() const { return config_; }

  /// Makes a scheduler from the text of a config.
  /// @param json JSON text: a config file, or `config_json()` of any scheduler
  /// @param overrides values that replace those of `json`: `{{"timestep_spacing", "trailing"}}` or JSON text
  /// @return the scheduler
  /// @throws ConfigError naming the key if a value is invalid, or if an override is neither a field of the
  ///   class nor a key of `json`
  static Derived from_config(std::string_view json, const ConfigOverrides& overrides = {});
  /// Reads `scheduler_config.json` and makes a scheduler.
  /// @param folder the folder, or the file itself
  /// @param options subfolder
  /// @return the scheduler
  /// @throws FileError if there is no such file; ConfigError naming the key if a value is invalid
  static Derived from_pretrained(const std::filesystem::path& folder,
                                 const SchedulerLoadOptions& options = {});
  /// Returns the names of the config fields, in order.
  static std::vector<std::string> config_keys();

  /// Returns Python's class name, `Derived::kClassName`.
  std::string class_name() const override { return std::string(Derived::kClassName); }
  /// Returns Python's `scheduler.config` as JSON text: the fields, `_class_name`, and the unknown keys of the
  /// config that was loaded.
  /// @throws ConfigError if a field holds a value that a file cannot hold
  std::string config_json() const override;
  /// Returns a copy with the same state. Copies share immutable tables.
  std::unique_ptr<Scheduler> clone() const override;
  /// Returns the number of training timesteps T.
  int64_t num_train_timesteps() const override;
  /// Returns the config's `prediction_type`; that of `Scheduler` if the config has no such field.
  PredictionType prediction_type() const override;
  /// Returns the config's `variance_type`, which may be an unknown key of a loaded config.
  /// @return nullopt if the config has none
  std::optional<VarianceType> variance_type() const override;
  /// Returns the config's `shift`; 1 with `use_dynamic_shifting`.
  /// @return nullopt if the config has no `shift`
  std::optional<double> flow_shift() const override;
  /// Returns the config's `use_flow_sigmas`, which may be an unknown key of a loaded config; false if it has
  /// none.
  bool uses_flow_sigmas() const override;
  /// Returns the config's `invert_sigmas`; false if it has none.
  bool has_inverted_sigmas() const override;
  /// Returns the config's `steps_offset`, which may be an unknown key of a loaded config.
  /// @return nullopt if the config has none
  std::optional<int64_t> steps_offset() const override;
  /// Returns the config's `clip_sample`, which may be an unknown key of a loaded config.
  /// @return nullopt if the config has none
  std::optional<bool> clip_sample() const override;

 protected:
  /// Stores a config.
  /// @param config the config; the constructor of the derived class checks it
  explicit ConfiguredScheduler(Config config) : config_(std::move(config)) {}
  // Copying through the base would slice.
  ConfiguredScheduler(const ConfiguredScheduler&) = default;
  ConfiguredScheduler(ConfiguredScheduler&&) noexcept = default;
  ConfiguredScheduler& operator=(const ConfiguredScheduler&) = default;
  ConfiguredScheduler& operator=(ConfiguredScheduler&&) noexcept = default;
  ~ConfiguredScheduler() override = default;

  /// Returns a number of the loaded config that is not a field of this class (Python's hidden config).
  /// @param key the key
  /// @return nullopt if the config has no such number
  std::optional<double> hidden_number(std::string_view key) const { return loaded_.number(key); }

  Config config_;  ///< The config that the scheduler was made from.

 private:
  static void visit(void* config, ConfigVisitor& visitor) {
    visit_fields(*static_cast<Config*>(config), visitor);
  }

  LoadedSchedulerConfig loaded_;
};

template <class Derived, class Config>
Derived ConfiguredScheduler<Derived, Config>::from_config(std::string_view json,
                                                          const ConfigOverrides& overrides) {
  Config config;
  LoadedSchedulerConfig loaded =
      LoadedSchedulerConfig::read(Derived::kClassName, json, overrides, {&config, &visit});
  Derived scheduler(std::move(config));
  static_cast<ConfiguredScheduler&>(scheduler).loaded_ = std::move(loaded);
  return scheduler;
}

template <class Derived, class Config>
Derived ConfiguredScheduler<Derived, Config>::from_pretrained(const std::filesystem::path& folder,
                                                              const SchedulerLoadOptions& options) {
  return from_config(read_scheduler_config(folder, options));
}

template <class Derived, class Config>
std::vector<std::string> ConfiguredScheduler<Derived, Config>::config_keys() {
  Config config;
  return scheduler_config_keys({&config, &visit});
}

template <class Derived, class Config>
std::string ConfiguredScheduler<Derived, Config>::config_json() const {
  // The visitor serves reading as well, so it takes mutable fields.
  Config fields = config_;
  Config defaults;
  return loaded_.compose(Derived::kClassName, {&fields, &visit}, {&defaults, &visit});
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
PredictionType ConfiguredScheduler<Derived, Config>::prediction_type() const {
  if constexpr (requires { config_.prediction_type; }) {
    return config_.prediction_type;
  } else {
    return Scheduler::prediction_type();
  }
}

template <class Derived, class Config>
std::optional<VarianceType> ConfiguredScheduler<Derived, Config>::variance_type() const {
  if constexpr (requires { std::optional<VarianceType>(config_.variance_type); }) {
    return std::optional<VarianceType>(config_.variance_type);
  } else {
    const std::optional<std::string> hidden = loaded_.text("variance_type");
    return hidden ? std::optional(enum_from_name<VarianceType>(*hidden, "variance_type")) : std::nullopt;
  }
}

template <class Derived, class Config>
std::optional<double> ConfiguredScheduler<Derived, Config>::flow_shift() const {
  if constexpr (requires { config_.use_dynamic_shifting&& config_.shift > 0; })
    if (config_.use_dynamic_shifting) return 1.0;
  if constexpr (requires { config_.shift; }) {
    return config_.shift;
  } else {
    return std::nullopt;
  }
}

template <class Derived, class Config>
bool ConfiguredScheduler<Derived, Config>::uses_flow_sigmas() const {
  if constexpr (requires { config_.use_flow_sigmas; }) {
    return config_.use_flow_sigmas;
  } else {
    return loaded_.flag("use_flow_sigmas").value_or(false);
  }
}

template <class Derived, class Config>
bool ConfiguredScheduler<Derived, Config>::has_inverted_sigmas() const {
  if constexpr (requires { config_.invert_sigmas; }) {
    return config_.invert_sigmas;
  } else {
    return false;
  }
}

template <class Derived, class Config>
std::optional<int64_t> ConfiguredScheduler<Derived, Config>::steps_offset() const {
  if constexpr (requires { config_.steps_offset; }) {
    return config_.steps_offset;
  } else {
    const std::optional<double> hidden = loaded_.number("steps_offset");
    return hidden ? std::optional(static_cast<int64_t>(*hidden)) : std::nullopt;
  }
}

template <class Derived, class Config>
std::optional<bool> ConfiguredScheduler<Derived, Config>::clip_sample() const {
  if constexpr (requires { config_.clip_sample; }) {
    return config_.clip_sample;
  } else {
    return loaded_.flag("clip_sample");
  }
}

}  // namespace diffusers
