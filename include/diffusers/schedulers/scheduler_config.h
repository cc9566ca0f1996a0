#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/core/config_visitor.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// A config struct without its type: the struct and the function that visits its fields.
struct SchedulerConfigFields {
  void* config;                                         ///< The config struct.
  void (*visit)(void* config, ConfigVisitor& visitor);  ///< Calls its `visit_fields`.
};

/// The names of the fields of a config, in order.
/// @param fields the config
std::vector<std::string> scheduler_config_keys(const SchedulerConfigFields& fields);

/// The text of the config file of a scheduler.
/// @param folder a folder with `scheduler_config.json`, or the file itself
/// @param options a subfolder; as in Python, `folder` itself is searched if the subfolder has no config
/// @throws FileError if there is no such file
std::string read_scheduler_config(const std::filesystem::path& folder, const SchedulerLoadOptions& options);

/// The JSON object that a scheduler was made from, with the keys that its class does not know. Empty for a
/// scheduler that was made from a config struct. Copies share it.
class LoadedSchedulerConfig {
 public:
  /// Empty.
  LoadedSchedulerConfig() = default;

  /// Sets the fields of a config from JSON.
  /// @param class_name the class that is made
  /// @param json JSON text: a config file, or `config_json()` of any scheduler
  /// @param overrides values that win over those of `json`
  /// @param fields the config, with its defaults
  /// @throws ConfigError naming the key, if a value does not fit, or if an override is neither a field nor a
  /// key of `json`
  static LoadedSchedulerConfig read(std::string_view class_name, std::string_view json,
                                    const ConfigOverrides& overrides, const SchedulerConfigFields& fields);

  /// Python's `scheduler.config` as JSON text: the fields, the keys that the class does not know,
  /// `_class_name`, `_use_default_values` and `_diffusers_version`.
  /// @param class_name the class that is written
  /// @param fields its config
  /// @param defaults the config's defaults
  /// @throws ConfigError if a field holds what no file can
  std::string compose(std::string_view class_name, const SchedulerConfigFields& fields,
                      const SchedulerConfigFields& defaults) const;

  /// The number of a key.
  /// @param key the key
  /// @return nullopt if the key is missing or no number
  std::optional<double> number(std::string_view key) const;
  /// The truth value of a key.
  /// @param key the key
  /// @return nullopt if the key is missing or no truth value
  std::optional<bool> flag(std::string_view key) const;
  /// The string of a key.
  /// @param key the key
  /// @return nullopt if the key is missing or no string
  std::optional<std::string> text(std::string_view key) const;

 private:
  struct Content;
  std::shared_ptr<const Content> content_;
};

}  // namespace diffusers
