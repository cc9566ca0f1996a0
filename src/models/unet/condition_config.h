#pragma once

// Common parts of the configs of UNet2DConditionModel and ControlNetModel.

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/one_or_many.h>

#include "core/require.h"
#include "models/unet/unet_inputs.h"

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

inline void require_factor(const char* key, double value) {
  require<ConfigError>(std::isfinite(value) && value != 0, "{} is {}, expected a finite number other than 0",
                       key, value);
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
  require_positive("in_channels", config.in_channels);
  require_positive("norm_num_groups", config.norm_num_groups);
  for (const auto channels : config.block_out_channels) require_positive("block_out_channels", channels);
  for (const auto heads : config.attention_head_dim.values()) require_positive("attention_head_dim", heads);
  const auto blocks = config.block_out_channels.size();
  require<ConfigError>(blocks > 0, "block_out_channels is empty, expected the channels of each block");
  require<ConfigError>(config.down_block_types.size() == blocks,
                       "down_block_types has {} and block_out_channels {} elements, expected as many of each",
                       config.down_block_types.size(), blocks);
  require_one_for_each("only_cross_attention", config.only_cross_attention, blocks);
  require_one_for_each("attention_head_dim", config.attention_head_dim, blocks);
  check_transformer_layers("transformer_layers_per_block", config.transformer_layers_per_block, blocks);
  require_no_skip_blocks("down_block_types", config.down_block_types);
  require_factor("mid_block_scale_factor", config.mid_block_scale_factor);
  require<ConfigError>(config.downsample_padding >= 0 && config.downsample_padding <= kMostChannels,
                       "downsample_padding is {}, expected 0 or 1", config.downsample_padding);
  require<ConfigError>(std::isfinite(config.norm_eps) && config.norm_eps >= 0,
                       "norm_eps is {}, expected a finite number that is not negative", config.norm_eps);
}

/// Runs `build` and adds the block and the model to error messages.
template <class Config, class Build>
auto build_condition_block(std::string_view model, const std::string& place, const Config& config,
                           Build&& build) {
  try {
    return build();
  } catch (const ConfigError& error) {
    fail<ConfigError>("{}: {}: {} (block_out_channels {}, norm_num_groups {}, attention_head_dim {})", model,
                      place, error.what(), config.block_out_channels,
                      config.norm_num_groups ? std::to_string(*config.norm_num_groups) : "null",
                      config.attention_head_dim.values());
  }
}

}  // namespace internal
}  // namespace diffusers
