#pragma once

#include <string>
#include <string_view>

#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {

/// An exclusive lock on a folder, for its only writer. The destructor and the end of the process release it.
class FolderLock {
 public:
  /// @param folder an existing folder. On a file system without locks, a warning is logged.
  /// @param name name of the folder in messages, such as "output_dir"
  /// @param writer kind of the writer in messages, such as "training"
  /// @throws FileError if the folder cannot be opened, or if another process or object holds the lock
  FolderLock(const std::string& folder, std::string_view name, std::string_view writer);

 private:
  FileDescriptor folder_;
};

}  // namespace internal
}  // namespace diffusers
