#include "io/folder_lock.h"

#include <cerrno>

#include <diffusers/core/logging.h>

#include <fcntl.h>
#include <sys/file.h>

#include "core/require.h"
#include "io/system_calls.h"

namespace diffusers {
inline namespace internal {

FolderLock::FolderLock(const std::string& folder, std::string_view name, std::string_view writer)
    : folder_(open_retrying(folder, O_RDONLY | O_DIRECTORY)) {
  require<FileError>(folder_.get() >= 0, "cannot open the folder {}: {}", escaped(folder), errno_text(errno));
  const int error = error_of([&] { return ::flock(folder_.get(), LOCK_EX | LOCK_NB); });
  if (error == 0) return;
  require<FileError>(error != EWOULDBLOCK, "{} is {}, and another {} writes there", name, escaped(folder),
                     writer);
  // A network file system may have no locks. An error would make it unusable, so this is a warning.
  warn_once(fmt::format("{} cannot be locked ({}); see that no other {} writes there", name,
                        errno_text(error), writer));
}

}  // namespace internal
}  // namespace diffusers
