#pragma once

#include <diffusers/models/controlnet.h>

namespace diffusers {
inline namespace internal {

/// Checks the combination of fields, which the layers cannot check on their own.
/// @throws ConfigError naming the key and the value
void check_controlnet_config(const ControlNetModelConfig& config);

}  // namespace internal
}  // namespace diffusers
