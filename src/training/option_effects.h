#pragma once

// Lists the options of a TrainingConfig that have no effect with the values of others.

#include <vector>

#include <diffusers/training/training_config.h>

#include "core/option_effects.h"

namespace diffusers {
inline namespace internal {

/// Returns one entry for each field of TrainingConfig, in its order.
const std::vector<OptionEffect<TrainingConfig>>& option_effects();

}  // namespace internal
}  // namespace diffusers
