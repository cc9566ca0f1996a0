#include "io/folders.h"

#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include <diffusers/io/files.h>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/require.h"
#include "io/posix_file.h"
#include "io/system_calls.h"

namespace diffusers {
inline namespace internal {
namespace {

int exchange_error(const std::string& a, const std::string& b) {
  return error_of(
      [&] { return ::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE); });
}

/// Largest number of files that are linked. A model folder has fewer.
constexpr int64_t kMostLinks = 10'000;

/// Creates a folder with hard links to all files of another folder.
/// @param left number of links that may still be made
/// @return false if a link cannot be made
bool link_tree(const std::string& from, const std::string& to, int64_t& left) {
  struct stat status {};
  if (::stat(from.c_str(), &status) != 0 || ::mkdir(to.c_str(), 0700) != 0) return false;
  for (const std::string& name : list_folder(from)) {
    const std::string source = join_path(from, name);
    const std::string target = join_path(to, name);
    const bool is_linked = S_ISDIR(mode_of(source))
                               ? link_tree(source, target, left)
                               : error_of([&] { return ::link(source.c_str(), target.c_str()); }) == 0;
    if (!is_linked || --left < 0) return false;
  }
  sync_folder(to);
  return ::chmod(to.c_str(), status.st_mode & 07777) == 0;
}

/// Returns the path of an existing folder without links, dots and trailing slashes; empty if there is no
/// folder.
std::string resolved(const std::string& folder) {
  char buffer[PATH_MAX];
  return ::realpath(folder.c_str(), buffer) != nullptr ? buffer : "";
}

/// Returns true if the working folder of the process is the folder or inside of it.
bool is_worked_in(const std::string& folder) {
  char buffer[PATH_MAX];
  if (::getcwd(buffer, sizeof(buffer)) == nullptr) return true;
  const std::string_view current = buffer;
  return current == folder || current.starts_with(folder + "/");
}

}  // namespace

mode_t mode_of(const std::string& path, bool follow_link) {
  struct stat status {};
  const int error = error_of(
      [&] { return ::fstatat(AT_FDCWD, path.c_str(), &status, follow_link ? 0 : AT_SYMLINK_NOFOLLOW); });
  require<FileError>(error == 0 || error == ENOENT, "cannot examine {}: {}", escaped(path),
                     errno_text(error));
  return error == 0 ? status.st_mode : 0;
}

void sync_tree(const std::string& folder) {
  for (const std::string& name : list_folder(folder)) {
    const std::string path = join_path(folder, name);
    S_ISDIR(mode_of(path)) ? sync_tree(path) : sync_file(path);
  }
  sync_folder(folder);
}

int exchange_paths(const std::string& a, const std::string& b) {
  const int error = exchange_error(a, b);
  require<FileError>(error == 0 || error == EINVAL || error == ENOSYS, "cannot exchange {} and {}: {}",
                     escaped(a), escaped(b), errno_text(error));
  return error;
}

bool change_folder_at_once(const std::string& folder, const std::function<void(const std::string&)>& write) {
  const std::string path = resolved(folder);
  if (path.empty() || path == "/" || is_worked_in(path)) return false;
  const std::string stage = temporary_path(path);
  try {
    int64_t left = kMostLinks;
    bool is_done = link_tree(path, stage, left);
    if (is_done) {
      write(stage);
      is_done = exchange_error(stage, path) == 0;
    }
    if (is_done) {
      try {
        sync_folder(parent_folder(path));
      } catch (const FileError&) {
        exchange_error(stage, path);  // the new folder may not be on the disk, so the old one is restored
        throw;
      }
    }
    remove_folder(stage);  // the old folder, or the incomplete new one
    return is_done;
  } catch (...) {
    remove_folder(stage);
    throw;
  }
}

}  // namespace internal
}  // namespace diffusers
