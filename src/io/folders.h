#pragma once

// Folders that are replaced in one step.

#include <functional>
#include <string>

#include <sys/types.h>

namespace diffusers {
inline namespace internal {

/// Returns the mode of the file, folder or link at a path; 0 if there is nothing.
mode_t mode_of(const std::string& path, bool follow_link = false);

/// Brings a folder and all that is in it to the disk.
void sync_tree(const std::string& folder);

/// Swaps two paths in one step. @return 0, or EINVAL or ENOSYS where the system cannot
/// @throws FileError for any other error
int exchange_paths(const std::string& a, const std::string& b);

/// Changes files of a folder so that all changes appear at once: `write` is given a folder beside it with the
/// same files, by hard links, and the two are exchanged. It must replace files by new ones, never write into
/// them, and sync what it writes.
/// @return false, with nothing changed, where a file system or the permissions do not allow it, or where the
/// program works in the folder (`write` was called or not then)
bool change_folder_at_once(const std::string& folder, const std::function<void(const std::string&)>& write);

}  // namespace internal
}  // namespace diffusers
