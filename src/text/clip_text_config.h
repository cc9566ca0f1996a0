#pragma once

#include <string>
#include <string_view>

#include <diffusers/core/tensor.h>
#include <diffusers/text/clip_text_model.h>

namespace diffusers {
inline namespace internal {
namespace clip {

/// Checks a config.
/// @throws ConfigError naming the key and the invalid value
void check_config(const CLIPTextConfig& config, bool with_projection);

/// Returns the text of config.json as transformers writes it.
/// @param source text of the config file that the model was made from; empty if there was none
std::string write_config(const CLIPTextConfig& config, std::string_view source, std::string_view class_name,
                         at::ScalarType dtype);

/// Returns true if a config file has this key with the value true. The key may be unknown to CLIP.
/// @param source JSON text; empty if there was no file
bool has_flag(std::string_view source, std::string_view key);

}  // namespace clip
}  // namespace internal
}  // namespace diffusers
