#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// What every scheduler class has because it has a config: reading it, writing it, copying itself.
///
/// Python's semantics (`configuration_utils.ConfigMixin`): a missing key takes the default; an unknown key is
/// reported once, ignored, kept and saved again; a key of a compatible scheduler is kept without a word;
/// `_class_name` is not enforced; keys listed in `_use_default_values` count as missing. Python lists there
/// what the caller did not pass; a scheduler made from a struct lists the fields that hold their defaults.
template <class Derived, class ConfigType>
class ConfiguredScheduler : public Scheduler {
 public:
  using Config = ConfigType;

  const Config& config() const { return config_; }

  /// @param json JSON text: a config file, or `config_json()` of any scheduler
  /// @param overrides a JSON object of keys that win over those of `json`
  /// @throws ConfigError naming the key, if a value does not fit
  static Derived from_config(std::string_view json, std::string_view overrides = {});
  /// Reads `scheduler_config.json` from a folder (or from its subfolder, or a file).
  static Derived from_pretrained(const std::filesystem::path& folder,
                                 const SchedulerLoadOptions& options = {});
  /// The names of the config fields.
  static std::vector<std::string> config_keys();

  std::string class_name() const override;
  std::string config_json() const override;
  std::unique_ptr<Scheduler> clone() const override;
  int64_t num_train_timesteps() const override;
  std::string prediction_type_name() const override;

 protected:
  explicit ConfiguredScheduler(Config config) : config_(std::move(config)) {}
  // Copying through the base would slice.
  ConfiguredScheduler(const ConfiguredScheduler&) = default;
  ConfiguredScheduler(ConfiguredScheduler&&) noexcept = default;
  ConfiguredScheduler& operator=(const ConfiguredScheduler&) = default;
  ConfiguredScheduler& operator=(ConfiguredScheduler&&) noexcept = default;
  ~ConfiguredScheduler() override = default;

  /// A number that came with the config although it is no field of this class (Python's hidden config).
  std::optional<double> hidden_number(std::string_view key) const;

  Config config_;

 private:
  std::string loaded_;  // the JSON object that from_config was given, as text
};

}  // namespace diffusers
