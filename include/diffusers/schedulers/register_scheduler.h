#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/schedulers/configured_scheduler.h>

namespace diffusers {

/// An entry of the table of scheduler classes that `Scheduler::from_config` searches.
struct SchedulerClass {
  /// `_class_name` in config files.
  std::string class_name;
  /// Makes a scheduler from the text of a config.
  std::function<std::unique_ptr<Scheduler>(std::string_view json)> create;
  /// Names of the config fields. An override must name one of them or a key of the loaded config.
  std::vector<std::string> config_keys;
};

/// Registers a class for `Scheduler::from_config` and `Scheduler::from_pretrained`. Thread-safe.
/// @param scheduler_class the class
/// @throws ConfigError if the name or `create` is empty, or if a class of that name is registered already
void register_scheduler(SchedulerClass scheduler_class);

/// Registers a class of a program that derives from `ConfiguredScheduler`. Thread-safe. A config field is
/// named in two places only, the config struct and its `visit_fields`:
/// @code
/// struct MySchedulerConfig {
///   int64_t num_train_timesteps = 1000;
///   EnumChoice<PredictionType> prediction_type = "epsilon";
/// };
/// inline void visit_fields(MySchedulerConfig& config, ConfigVisitor& visit) {
///   visit("num_train_timesteps", config.num_train_timesteps);
///   visit("prediction_type", config.prediction_type);
/// }
/// class MyScheduler : public ConfiguredScheduler<MyScheduler, MySchedulerConfig> {
///  public:
///   static constexpr std::string_view kClassName = "MyScheduler";
///   explicit MyScheduler(MySchedulerConfig config = {}) : ConfiguredScheduler(std::move(config)) {}
///   // overrides: timesteps, set_timesteps, step; add_noise and alphas_cumprod for training
/// };
/// register_scheduler<MyScheduler>();
/// auto scheduler = Scheduler::from_pretrained("folder");  // scheduler_config.json names MyScheduler
/// @endcode
/// @tparam SchedulerType the class
/// @throws ConfigError if a class of that name is registered already
template <class SchedulerType>
void register_scheduler() {
  register_scheduler({std::string(SchedulerType::kClassName),
                      [](std::string_view json) -> std::unique_ptr<Scheduler> {
                        return std::make_unique<SchedulerType>(SchedulerType::from_config(json));
                      },
                      SchedulerType::config_keys()});
}

/// Returns the names of all classes that `Scheduler::from_config` can make, those of the library first.
/// Thread-safe.
/// @return the class names
std::vector<std::string> registered_schedulers();

}  // namespace diffusers
