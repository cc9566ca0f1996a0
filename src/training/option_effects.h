#pragma once

// Which options of a TrainingConfig have an effect, given the others.

#include <string_view>
#include <vector>

#include <diffusers/training/training_config.h>

#include "core/json.h"

namespace diffusers {

/// When a field of TrainingConfig has an effect. A changed field without an effect is refused.
struct OptionEffect {
  std::string_view key;
  /// Returns true if the field may be changed. Null: always.
  bool (*may_be_changed)(const TrainingConfig&) = nullptr;
  /// The other fields that it takes, for the message.
  std::string_view needs = {};
};

/// Returns one entry for each field of TrainingConfig, in its order.
const std::vector<OptionEffect>& option_effects();

/// Refuses changed fields that have no effect.
/// @param config the options
/// @param fields the same as JSON
/// @param defaults a default TrainingConfig as JSON
/// @throws ConfigError naming the field, its value and what it needs
void require_options_with_effect(const TrainingConfig& config, const Json& fields, const Json& defaults);

}  // namespace diffusers
