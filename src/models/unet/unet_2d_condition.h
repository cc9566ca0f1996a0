#pragma once

#include <diffusers/models/unet_2d_condition.h>

namespace diffusers {
inline namespace internal {

/// What the pieces cannot know: how the fields fit together.
/// @throws ConfigError naming the key and the value
void check_condition_config(const UNet2DConditionModelConfig& config);

}  // namespace internal
}  // namespace diffusers
