#pragma once

// Parses and checks the index of a sharded checkpoint. It does not use LibTorch, so that a fuzz target can
// link it alone.

#include <map>
#include <set>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// The tensors of each shard file, by its name.
using ShardIndex = std::map<std::string, std::set<std::string, std::less<>>>;

/// Parses an index.
/// @throws FileError naming `where`, the tensor and the shard if the index is invalid or a shard is not a
///   plain file name
ShardIndex parse_shard_index(std::string_view text, std::string_view where);

}  // namespace internal
}  // namespace diffusers
