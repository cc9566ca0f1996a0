#pragma once

#include <string>

#include <diffusers/models/lora.h>

#include "core/json.h"

namespace diffusers {
inline namespace internal {

/// Adds a config to the value of the key `lora_adapter_metadata`: "PREFIX.r", "PREFIX.lora_alpha", ...
void write_lora_metadata(Json& metadata, const std::string& prefix, const LoraConfig& config);

/// Reads a config back.
/// @param metadata the value of `lora_adapter_metadata`
/// @param where path of the file, for messages
/// @param config receives the fields
/// @return false if the metadata have nothing with this prefix
/// @throws ConfigError naming the field if its value is not supported
bool read_lora_metadata(const Json& metadata, const std::string& prefix, const std::string& where,
                        LoraConfig& config);

}  // namespace internal
}  // namespace diffusers
