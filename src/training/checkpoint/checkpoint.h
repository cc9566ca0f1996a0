#pragma once

// Folders that appear complete or not at all, and know when they were damaged.
//
// A checkpoint is staged as `checkpoint-N.partial`; every file and folder is synced; a manifest with the size
// and SHA-256 of each file is written last and synced, and so is the stage; then it is renamed, and its
// parent synced. Only then are older checkpoints removed. A sync that fails is never tried again: the stage
// is given up.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/folders.h"
#include "io/posix_file.h"

namespace diffusers {

/// The one writer of an output folder: holds a lock on the folder itself, which ends with the process.
class OutputLock {
 public:
  /// @throws FileError if another process or Trainer trains into this folder
  explicit OutputLock(const std::string& folder);

 private:
  FileDescriptor folder_;
};

/// A folder under construction at `path + ".partial"`, removed again unless it is published.
class StagedFolder {
 public:
  explicit StagedFolder(std::string path);
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;
  ~StagedFolder();

  /// Where to write.
  const std::string& stage() const { return stage_; }
  /// Syncs what was written and gives it its name, in place of what was there.
  void publish();
  /// The same with a `manifest.json`, which is written when everything else is on the disk.
  void publish_with_manifest();

 private:
  void take_place();

  std::string path_;
  std::string stage_;
  bool is_published_ = false;
};

/// @throws FileError naming the file that is missing, of another size, or of another content
void verify_manifest(const std::string& folder);

std::string checkpoint_path(const std::string& output_dir, int64_t step);
/// N of the name "checkpoint-N", -1 for any other name.
int64_t checkpoint_step(std::string_view name);
/// The steps of the folders named `checkpoint-N`, ascending by number; whole or not.
std::vector<int64_t> list_checkpoints(const std::string& output_dir);
/// Removes a checkpoint so that no half of it can be taken for a whole one.
void remove_checkpoint(const std::string& output_dir, int64_t step);
/// Of the checkpoints up to `current_step`, removes the oldest until `limit` are left. Those beyond are none
/// of this training's, and must not push out what it has just written.
void keep_newest_checkpoints(const std::string& output_dir, int64_t limit, int64_t current_step);
/// Removes what a failed save may have left: staged and half removed folders. A folder that was about to be
/// replaced where the file system cannot exchange two folders gets its name back. A folder that cannot
/// be removed is logged.
void remove_unfinished_folders(const std::string& output_dir);
/// The same for temporary files, in the folder and in those below it; nobody else may write there now.
void remove_temporary_files(const std::string& output_dir);

}  // namespace diffusers
