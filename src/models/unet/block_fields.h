#pragma once

// The config fields of the blocks that UNet2DModel, UNet2DConditionModel and ControlNetModel have in common.

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <diffusers/core/one_or_many.h>

#include "core/require.h"
#include "models/unet/unet_inputs.h"

namespace diffusers {
inline namespace internal {

/// Checks the fields that all three configs have.
/// @throws ConfigError naming the field and its value
template <class Config>
void check_block_fields(const Config& config) {
  require_positive("in_channels", config.in_channels);
  require_positive("norm_num_groups", config.norm_num_groups);
  for (const auto channels : config.block_out_channels) require_positive("block_out_channels", channels);
  require<ConfigError>(!config.block_out_channels.empty(),
                       "block_out_channels is empty, expected the channels of each block");
  require_factor("mid_block_scale_factor", config.mid_block_scale_factor);
  require<ConfigError>(config.downsample_padding >= 0 && config.downsample_padding <= kMostChannels,
                       "downsample_padding is {}, expected 0 or 1", config.downsample_padding);
  require<ConfigError>(std::isfinite(config.norm_eps) && config.norm_eps >= 0,
                       "norm_eps is {}, expected a finite number that is not negative", config.norm_eps);
}

/// Returns the text of `attention_head_dim` in messages.
inline std::string heads_text(const std::optional<int64_t>& heads) {
  return heads ? std::to_string(*heads) : "null";
}
inline std::string heads_text(const OneOrMany<int64_t>& heads) { return fmt::format("{}", heads.values()); }

/// Runs `build` and adds the model, the block and its fields to error messages.
/// @param place the field that names the block
template <class Config, class Build>
auto build_block(std::string_view model, const std::string& place, const Config& config, Build&& build) {
  try {
    return build();
  } catch (const ConfigError& error) {
    fail<ConfigError>("{}: {}: {} (block_out_channels {}, norm_num_groups {}, attention_head_dim {})", model,
                      place, error.what(), config.block_out_channels,
                      config.norm_num_groups ? std::to_string(*config.norm_num_groups) : "null",
                      heads_text(config.attention_head_dim));
  }
}

}  // namespace internal
}  // namespace diffusers
