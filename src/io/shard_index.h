#pragma once

// The index of a sharded checkpoint, checked completely; knows nothing of LibTorch, so that it can be fuzzed
// alone.

#include <map>
#include <set>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// Name of a shard file -> the tensors that it holds.
using ShardIndex = std::map<std::string, std::set<std::string, std::less<>>>;

/// @throws FileError naming `where`, the tensor and the shard; also for a shard that is no plain file name
ShardIndex parse_shard_index(std::string_view text, std::string_view where);

}  // namespace internal
}  // namespace diffusers
