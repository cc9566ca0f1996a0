#pragma once

// Common parts of the configs of UNet2DConditionModel and ControlNetModel.

#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/one_or_many.h>

#include "core/require.h"
#include "models/unet/block_fields.h"

namespace diffusers {
inline namespace internal {

template <class Enum>
std::optional<Enum> choice_of(const std::optional<EnumChoice<Enum>>& field) {
  return field ? std::optional<Enum>(field->value()) : std::nullopt;
}

/// Checks that a field has one value or one for each block.
template <class List>
void require_one_for_each(const char* key, const List& field, std::size_t blocks) {
  require<ConfigError>(!field.empty() && (!field.is_list() || field.values().size() == blocks),
                       "{} has {} elements and block_out_channels {}, expected one number or as many", key,
                       field.values().size(), blocks);
}

inline void check_transformer_layers(const char* key, const NestedOneOrMany& field, std::size_t blocks) {
  require_one_for_each(key, field, blocks);
  for (const auto& entry : field.values()) {
    require<ConfigError>(!entry.empty(), "{} has an element without a number", key);
    for (const auto count : entry.values()) {
      require<ConfigError>(count >= 0 && count <= kMostLayers, "{} is {}, expected a number from 0 to {}",
                           key, count, kMostLayers);
    }
  }
}

inline void require_no_skip_blocks(const char* key, const std::vector<std::string>& types) {
  for (const auto& type : types) {
    require<ConfigError>(type.find("Skip") == std::string::npos,
                         "{} has \"{}\", which works in UNet2DModel only", key, type);
  }
}

/// Checks the fields that both configs have.
template <class Config>
void check_shared_fields(const Config& config) {
  check_block_fields(config);
  for (const auto heads : config.attention_head_dim.values()) require_positive("attention_head_dim", heads);
  const auto blocks = config.block_out_channels.size();
  require<ConfigError>(config.down_block_types.size() == blocks,
                       "down_block_types has {} and block_out_channels {} elements, expected as many of each",
                       config.down_block_types.size(), blocks);
  require_one_for_each("only_cross_attention", config.only_cross_attention, blocks);
  require_one_for_each("attention_head_dim", config.attention_head_dim, blocks);
  check_transformer_layers("transformer_layers_per_block", config.transformer_layers_per_block, blocks);
  require_no_skip_blocks("down_block_types", config.down_block_types);
}

}  // namespace internal
}  // namespace diffusers
