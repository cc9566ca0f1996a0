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

/// A type-erased config: the config struct and the function that visits its fields.
struct SchedulerConfigFields {
  void* config;                                         ///< The config struct.
  void (*visit)(void* config, ConfigVisitor& visitor);  ///< Calls its `visit_fields`.
};

/// Returns the names of the fields of a config, in order.
/// @param fields the config
/// @return the names
std::vector<std::string> scheduler_config_keys(const SchedulerConfigFields& fields);

/// Reads the config file of a scheduler.
/// @param folder a folder with `scheduler_config.json`, or the file itself
/// @param options subfolder. As in Python, `folder` itself is searched if the subfolder has no config.
/// @return the text of the file
/// @throws FileError if there is no such file
std::string read_scheduler_config(const std::filesystem::path& folder, const SchedulerLoadOptions& options);

/// The JSON object that a scheduler was loaded from, including the keys that its class does not have. It is
/// empty for a scheduler that was made from a config struct. Copies share the object.
class LoadedSchedulerConfig {
 public:
  /// Makes an empty object.
  LoadedSchedulerConfig() = default;

  /// Sets the fields of a config from JSON.
  /// @param class_name class of the new scheduler
  /// @param json JSON text: a config file, or `config_json()` of any scheduler
  /// @param overrides values that replace those of `json`
  /// @param fields the config to set, with its defaults
  /// @return the JSON object
  /// @throws ConfigError naming the key if a value is invalid, or if an override is neither a field nor a key
  ///   of `json`
  static LoadedSchedulerConfig read(std::string_view class_name, std::string_view json,
                                    const ConfigOverrides& overrides, const SchedulerConfigFields& fields);

  /// Composes Python's `scheduler.config` as JSON text: the fields, the keys that the class does not have,
  /// `_class_name`, `_use_default_values` and `_diffusers_version`.
  /// @param class_name class of the scheduler
  /// @param fields its config
  /// @param defaults a config with the default values
  /// @return the JSON text
  /// @throws ConfigError if a field holds a value that a file cannot hold
  std::string compose(std::string_view class_name, const SchedulerConfigFields& fields,
                      const SchedulerConfigFields& defaults) const;

  /// Returns the number of a key.
  /// @param key the key
  /// @return nullopt if the key is missing or not a number
  std::optional<double> number(std::string_view key) const;
  /// Returns the truth value of a key.
  /// @param key the key
  /// @return nullopt if the key is missing or not a truth value
  std::optional<bool> flag(std::string_view key) const;
  /// Returns the string of a key.
  /// @param key the key
  /// @return nullopt if the key is missing or not a string
  std::optional<std::string> text(std::string_view key) const;

 private:
  struct Content;
  std::shared_ptr<const Content> content_;
};

}  // namespace diffusers
