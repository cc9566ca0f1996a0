#pragma once

#include <diffusers/models/controlnet.h>

namespace diffusers {
inline namespace internal {

/// What the pieces cannot know: how the fields fit together.
/// @throws ConfigError naming the key and the value
void check_controlnet_config(const ControlNetModelConfig& config);

}  // namespace internal
}  // namespace diffusers
