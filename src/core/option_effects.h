#pragma once

// Checks options that have an effect only if another option has a certain value. If a config changes such an
// option without that value, the check throws, because the option would be ignored.

#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/config_json.h"
#include "core/json.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {

/// The condition under which a field of a config has an effect. Changing a field without an effect is an
/// error.
template <class Config>
struct OptionEffect {
  std::string_view key;  ///< name of the field in `visit_fields`
  /// Returns true if the field may be changed. A null pointer means always.
  bool (*may_be_changed)(const Config& config) = nullptr;
  std::string_view needs = {};  ///< the options that it requires, for the error message
};

/// Throws if a changed field has no effect.
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
