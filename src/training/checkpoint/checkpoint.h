#pragma once

// The folders `checkpoint-N` of an output folder.
//
// A checkpoint is a StagedFolder with a manifest. Older checkpoints are removed after it is published.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace diffusers {
inline namespace internal {

/// Returns the path `output_dir/checkpoint-<step>`.
std::string checkpoint_path(const std::string& output_dir, int64_t step);
/// Returns N of the name "checkpoint-N", or -1 for any other name.
int64_t checkpoint_step(std::string_view name);
/// Returns the steps of all folders named `checkpoint-N` in ascending order, incomplete ones included.
/// @throws FileError if the folder or an entry of it cannot be examined
std::vector<int64_t> list_checkpoints(const std::string& output_dir);
/// Removes a checkpoint atomically; see remove_folder_at_once().
/// @throws FileError
void remove_checkpoint(const std::string& output_dir, int64_t step);
/// Removes the oldest checkpoints up to `current_step` until `limit` of them are left. Later checkpoints
/// belong to another training and are not counted.
/// @throws FileError
void keep_newest_checkpoints(const std::string& output_dir, int64_t limit, int64_t current_step);

}  // namespace internal
}  // namespace diffusers
