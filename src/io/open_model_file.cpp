#include "io/open_model_file.h"

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <optional>

#include <diffusers/io/files.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "core/require.h"
#include "io/system_calls.h"

namespace diffusers {
namespace {

#ifdef O_PATH
constexpr int kPassThrough = O_PATH | O_DIRECTORY | O_CLOEXEC;  // needs no permission to list the folder
#else
constexpr int kPassThrough = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
#endif

/// Returns the path without links; nullopt with errno on failure.
std::optional<std::string> resolve(const std::string& path) {
  char buffer[PATH_MAX];
  if (::realpath(path.c_str(), buffer) == nullptr) return std::nullopt;
  return buffer;
}

std::string resolve_folder(const std::string& folder) {
  if (!folder.empty()) c_path(folder);
  const auto real = resolve(folder.empty() ? "." : folder);
  require<FileError>(real.has_value(), "{}: cannot open the folder: {}", folder, errno_text(errno));
  return *real;
}

/// Returns true if the resolved `path` is the resolved `folder` or below it.
bool is_below(std::string_view path, std::string_view folder) {
  if (folder == "/" || path == folder) return true;
  return path.starts_with(folder) && path[folder.size()] == '/';
}

/// Returns CACHE/blobs for CACHE/snapshots/REVISION and the folders below it; empty for any other folder.
std::string blobs_of(const std::string& folder) {
  constexpr std::string_view kSnapshots = "/snapshots/";
  const auto place = folder.rfind(kSnapshots);
  return place == std::string::npos ? "" : folder.substr(0, place) + "/blobs";
}

[[noreturn]] void refuse_link(const std::string& path, std::string_view folder, const std::string& target) {
  fail<FileError>(
      "{}: a link leads out of the folder {}, to {}; expected a file or folder inside, or a blob of the "
      "Hub's cache",
      path, folder, escaped(target));
}

/// A path without links, and the resolved folder that contains it.
struct ResolvedFile {
  std::string path;
  std::string base;
};

/// Resolves `path`, which consists of `folder` and plain names.
/// @throws FileError if the file is missing, or is neither below `folder` nor in the Hub's cache
ResolvedFile resolve_file(const std::string& folder, const std::string& path) {
  const std::string root = resolve_folder(folder);
  const auto real = resolve(path);
  require<FileError>(real.has_value(), "{}: cannot open: {}", path, errno_text(errno));
  require<FileError>(*real != root, "{}: expected a file, found a folder", path);
  if (is_below(*real, root)) return {*real, root};
  const std::string blobs = blobs_of(root);
  if (blobs.empty() || parent_folder(*real) != blobs) refuse_link(path, folder, *real);
  return {*real, blobs};
}

/// Joins `folder` and `path`, which consists of plain names with slashes between them.
/// @param what description of `path`, for error messages
std::string join_plain_names(const std::string& folder, std::string_view path, std::string_view what) {
  require<FileError>(!path.starts_with('/'), "{}: the {} is {}, expected a path below the folder", folder,
                     what, escaped(path));
  std::string joined = folder;
  for (std::string_view rest = path; !rest.empty();) {
    const auto slash = rest.find('/');
    const std::string_view name = rest.substr(0, slash);
    rest.remove_prefix(slash == std::string_view::npos ? rest.size() : slash + 1);
    if (name.empty() || name == ".") continue;
    require_plain_basename(name, fmt::format("{}: a part of the {}", folder, what));
    joined = join_path(joined, name);
  }
  return joined;
}

/// Opens `path`, which is resolved and below `base`, one path component after another.
FileDescriptor open_below(const std::string& path, const std::string& base, const std::string& shown) {
  const auto open = [&](int at, const std::string& name, int flags) {
    int fd = -1;
    const int error = error_of([&] {
      fd = ::openat(at, name.c_str(), flags);
      return fd;
    });
    require<FileError>(error == 0, "{}: cannot open: {}", shown, errno_text(error));
    return FileDescriptor(fd);
  };
  FileDescriptor folder = open(AT_FDCWD, base, kPassThrough);
  std::size_t begin = base == "/" ? 1 : base.size() + 1;
  while (true) {
    const std::size_t slash = path.find('/', begin);
    const std::string name = path.substr(begin, slash - begin);
    // O_NONBLOCK: opening a pipe must not wait for its writer.
    if (slash == std::string::npos)
      return open(folder.get(), name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    folder = open(folder.get(), name, kPassThrough | O_NOFOLLOW);
    begin = slash + 1;
  }
}

}  // namespace

std::string internal::folder_inside(const std::string& folder, std::string_view subfolder) {
  std::string path = join_plain_names(folder, subfolder, "subfolder");
  if (path == folder || !folder_exists(path)) return path;
  const std::string root = resolve_folder(folder);
  const std::string real = resolve_folder(path);
  if (!is_below(real, root)) refuse_link(path, folder, real);
  return path;
}

InputFile internal::open_model_file(const std::string& folder, std::string_view name) {
  require_plain_basename(name, fmt::format("{}: the file name", folder));
  return open_file_inside(folder, name);
}

InputFile internal::open_file_inside(const std::string& folder, std::string_view path) {
  const std::string whole = join_plain_names(folder, path, "file");
  const ResolvedFile file = resolve_file(folder, whole);
  return {open_below(file.path, file.base, whole), whole};
}

std::string internal::read_file_inside(const std::string& folder, std::string_view path,
                                       std::size_t max_bytes) {
  return read_whole_file(open_file_inside(folder, path), max_bytes);
}

void internal::require_file_inside(const std::string& folder, std::string_view path) {
  const ResolvedFile file = resolve_file(folder, join_plain_names(folder, path, "file"));
  require<FileError>(file_exists(file.path), "{}: not a regular file", join_path(folder, path));
}

std::string read_model_file(const std::filesystem::path& folder, std::string_view name,
                            std::size_t max_bytes) {
  return read_whole_file(open_model_file(folder.native(), name), max_bytes);
}

}  // namespace diffusers
