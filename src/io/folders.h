#pragma once

// Atomic replacement of folders.

#include <functional>
#include <string>

#include <sys/types.h>

namespace diffusers {
inline namespace internal {

/// Returns the mode of the file, folder or link at a path; 0 if there is nothing.
mode_t mode_of(const std::string& path, bool follow_link = false);

/// Syncs a folder and everything in it to disk.
void sync_tree(const std::string& folder);

/// Swaps two paths atomically.
/// @return 0; EINVAL or ENOSYS if the file system does not support this
/// @throws FileError for any other error
int exchange_paths(const std::string& a, const std::string& b);

/// Changes files of a folder so that all changes appear at once. `write` receives a second folder with hard
/// links to the same files; afterwards the two folders are exchanged. `write` must replace files, never write
/// into them, and sync its files.
/// @return false, with nothing changed, if the file system or the permissions do not allow it, or if the
///   working folder of the process is in the folder. `write` may have been called in this case.
bool change_folder_at_once(const std::string& folder, const std::function<void(const std::string&)>& write);

}  // namespace internal
}  // namespace diffusers
