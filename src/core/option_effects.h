#pragma once

// Options that have an effect only if another option has a certain value. A config that changes one without
// that value is refused, because the change would be ignored.

#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/config_json.h"
#include "core/json.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {

/// When a field of a config has an effect. A changed field without an effect is refused.
template <class Config>
struct OptionEffect {
  std::string_view key;  ///< name of the field, as `visit_fields` gives it
  /// Returns true if the field may be changed. Null: always.
  bool (*may_be_changed)(const Config& config) = nullptr;
  std::string_view needs = {};  ///< the other options that it takes, for the message
};

/// Refuses changed fields that have no effect.
/// @param config the options
/// @param effects the fields that depend on others
/// @param given the fields of `config` as JSON
/// @param defaults the fields of a default config as JSON
/// @throws ConfigError naming the field, its value and what it needs
template <class Config>
void require_options_with_effect(const Config& config,
                                 std::span<const OptionEffect<std::type_identity_t<Config>>> effects,
                                 const Json& given, const Json& defaults) {
  for (const OptionEffect<Config>& effect : effects) {
    if (effect.may_be_changed == nullptr || effect.may_be_changed(config)) continue;
    const std::string key(effect.key);
    require<ConfigError>(given.at(key) == defaults.at(key),
                         "{} is {}, but has an effect only with {}; leave it at its default, {}", key,
                         json_excerpt(given.at(key)), effect.needs, json_excerpt(defaults.at(key)));
  }
}

template <class Config>
void require_options_with_effect(const Config& config,
                                 std::span<const OptionEffect<std::type_identity_t<Config>>> effects) {
  require_options_with_effect(config, effects, config_json::fields_to_json(config),
                              config_json::fields_to_json(Config{}));
}

}  // namespace internal
}  // namespace diffusers
