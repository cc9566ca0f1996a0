#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace diffusers {
inline namespace internal {

/// Largest number of shards that a pattern may stand for.
inline constexpr std::size_t kMostShards = 1'000'000;

/// Expands a pattern of shards as WebDataset does: "::" separates patterns, and braces are expanded as by
/// Python's package braceexpand: "{000..099}", "{0..10..2}", "{a..e}", "{train,val}", also nested. A
/// backslash quotes the next character.
/// @return the names in their order
/// @throws ConfigError for unbalanced braces, for an empty name, and for more than kMostShards names
std::vector<std::string> expand_shards(std::string_view pattern);

}  // namespace internal
}  // namespace diffusers
