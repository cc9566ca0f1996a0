#pragma once

// Atomic creation of folders.
//
// A folder is staged as `NAME.partial`. Every file and folder in it is synced, then it is renamed to `NAME`,
// and its parent is synced. With a manifest, the size and the SHA-256 of each file are written last and
// synced, before the rename. A sync that fails is never repeated: the stage is removed.

#include <string>

namespace diffusers {
inline namespace internal {

/// A folder under construction at `path + ".partial"`. The destructor removes it unless it was published.
class StagedFolder {
 public:
  /// Creates an empty stage. It replaces a stage that a killed process left.
  /// @param path final path of the folder
  explicit StagedFolder(std::string path);
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;
  ~StagedFolder();

  /// Returns the path of the folder to write into.
  const std::string& stage() const { return stage_; }
  /// Syncs the stage and renames it to its final path. An existing folder there is replaced.
  /// @throws FileError on failure; an existing folder then keeps its path
  void publish();
  /// Publishes the folder with a `manifest.json`, which is written after everything else is synced.
  /// @throws FileError on failure; an existing folder then keeps its path
  void publish_with_manifest();

 private:
  void take_place();

  std::string path_;
  std::string stage_;
  bool is_published_ = false;
};

/// Removes a folder. The folder is renamed to `path + ".removed"` first, so that a killed process never
/// leaves an incomplete folder at `path`.
/// @throws FileError if there is no such folder, or if it cannot be renamed or removed
void remove_folder_at_once(const std::string& path);

/// Removes the stages and the partly removed folders that a killed process or a failed save left in `folder`.
/// On a file system that cannot exchange two folders, a folder that was about to be replaced is restored. A
/// folder that cannot be removed is logged.
void remove_unfinished_folders(const std::string& folder);
/// Removes temporary files from `folder` and from the folders in it. No other process may write there at the
/// same time. A file that cannot be removed is logged.
void remove_temporary_files(const std::string& folder);

}  // namespace internal
}  // namespace diffusers
