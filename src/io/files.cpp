#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <system_error>

#include <diffusers/io/files.h>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/json.h"
#include "core/require.h"
#include "core/utf8.h"
#include "io/posix_file.h"
#include "io/system_calls.h"

namespace diffusers {
namespace {

constexpr std::size_t kWriteBuffer = std::size_t{1} << 20;
constexpr std::size_t kLargestTransfer = std::size_t{1} << 30;  // Linux stops at 2 GiB - 4 KiB in one call

using Folder = std::unique_ptr<DIR, int (*)(DIR*)>;

/// Removes the content of an open folder. It uses names relative to the descriptor, so a link that is swapped
/// in is never followed.
void remove_entries(FileDescriptor descriptor, const std::string& path) {
  const Folder folder(::fdopendir(descriptor.get()), ::closedir);
  require<FileError>(folder != nullptr, "cannot list folder {}: {}", path, errno_text(errno));
  const int at = descriptor.release();
  errno = 0;
  while (const dirent* entry = ::readdir(folder.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") {
      const std::string inner = join_path(path, name);
      const int error = error_of([&] { return ::unlinkat(at, name.c_str(), 0); });
      if (error != 0 && error != ENOENT) {
        require<FileError>(error == EISDIR || error == EPERM, "cannot remove {}: {}", inner,
                           errno_text(error));
        int fd = -1;
        const int open_error = error_of([&] {
          fd = ::openat(at, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
          return fd;
        });
        require<FileError>(open_error == 0, "cannot open folder {}: {}", inner, errno_text(open_error));
        remove_entries(FileDescriptor(fd), inner);
        const int folder_error = error_of([&] { return ::unlinkat(at, name.c_str(), AT_REMOVEDIR); });
        require<FileError>(folder_error == 0 || folder_error == ENOENT, "cannot remove folder {}: {}", inner,
                           errno_text(folder_error));
      }
    }
    errno = 0;
  }
  require<FileError>(errno == 0, "cannot list folder {}: {}", path, errno_text(errno));
}

/// Returns the mode of a file or folder, or of the target of a link; 0 if there is none.
mode_t mode_or_zero(const std::string& path) {
  struct stat status {};
  // System calls would ignore everything after a NUL byte.
  const bool is_name = path.find('\0') == std::string::npos;
  return is_name && ::stat(path.c_str(), &status) == 0 ? status.st_mode : 0;
}

/// Writes all bytes. @return 0, or the errno
int write_all(int fd, const char* data, std::size_t count) {
  while (count > 0) {
    const ssize_t done = ::write(fd, data, std::min(count, kLargestTransfer));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return errno;
    data += done;
    count -= static_cast<std::size_t>(done);
  }
  return 0;
}

/// Creates an empty temporary file next to `path` and stores its name in `temporary`. @return its descriptor
int open_temporary(const std::string& path, std::string& temporary) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    temporary = temporary_path(path);
    // 0666 with O_CREAT makes the mode follow the umask.
    const int fd = open_retrying(temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (fd >= 0 || errno != EEXIST) return fd;
  }
  return -1;
}

}  // namespace

std::string internal::format_as(const Escaped& name) {
  const std::string_view text = name.text;
  constexpr std::size_t kLongest = 160;
  const bool is_long = text.size() > kLongest;
  std::string out =
      Json(std::string(text.substr(0, kLongest))).dump(-1, ' ', true, Json::error_handler_t::replace);
  return is_long ? out + "..." : out;
}

const char* internal::c_path(const std::string& path) {
  require<FileError>(!path.empty(), "a path is empty, expected the name of a file or folder");
  require<FileError>(path.find('\0') == std::string::npos, "the path {} contains a NUL byte", escaped(path));
  require<FileError>(is_utf8(path), "the path {} is not UTF-8", escaped(path));
  return path.c_str();
}

std::string internal::errno_text(int error) { return std::generic_category().message(error); }

int internal::open_retrying(const std::string& path, int flags, unsigned mode) {
  int fd = -1;
  do {
    fd = ::open(c_path(path), flags | O_CLOEXEC, static_cast<mode_t>(mode));
  } while (fd < 0 && errno == EINTR);
  return fd;
}

void internal::append_to_file(const std::string& path, std::string_view bytes) {
  FileDescriptor file(open_retrying(path, O_WRONLY | O_CREAT | O_APPEND, 0666));
  require<FileError>(file.get() >= 0, "{}: cannot open: {}", path, errno_text(errno));
  const int error = write_all(file.get(), bytes.data(), bytes.size());
  require<FileError>(error == 0, "{}: cannot write: {}", path, errno_text(error));
  const bool is_closed = ::close(file.release()) == 0 || errno == EINTR;
  require<FileError>(is_closed, "{}: cannot close: {}", path, errno_text(errno));
}

void internal::sync_file(const std::string& path) {
  const FileDescriptor file(open_retrying(path, O_RDONLY | O_NOFOLLOW));
  require<FileError>(file.get() >= 0, "cannot open {}: {}", escaped(path), errno_text(errno));
  const int error = error_of([&] { return ::fsync(file.get()); });
  require<FileError>(error == 0, "cannot sync {} to disk: {}", escaped(path), errno_text(error));
}

std::string internal::temporary_path(const std::string& path) {
  static std::atomic<uint64_t> counter{0};
  // A name may have at most 255 bytes, so the original name is cut after a complete code point.
  std::string stem = base_name(path).substr(0, 200);
  while (!is_utf8(stem)) stem.pop_back();
  return join_path(parent_folder(path), fmt::format(".{}.{}-{}.tmp", stem, ::getpid(), counter++));
}

bool internal::is_temporary_name(std::string_view name) {
  // ".STEM.PROCESS-NUMBER.tmp", as temporary_path() makes them
  constexpr std::string_view kEnd = ".tmp";
  if (!name.starts_with('.') || !name.ends_with(kEnd)) return false;
  name.remove_suffix(kEnd.size());
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto remove_number = [&] {
    const std::size_t size = name.size();
    while (!name.empty() && is_digit(name.back())) name.remove_suffix(1);
    return name.size() < size;
  };
  const auto remove_character = [&](char c) {
    if (!name.ends_with(c)) return false;
    name.remove_suffix(1);
    return true;
  };
  return remove_number() && remove_character('-') && remove_number() && remove_character('.') &&
         name.size() > 1;
}

void FileDescriptor::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

InputFile::InputFile(const std::string& path)
    // O_NONBLOCK: opening a pipe must not wait for its writer.
    : InputFile(FileDescriptor(open_retrying(path, O_RDONLY | O_NONBLOCK)), path) {}

InputFile::InputFile(FileDescriptor file, std::string path) : path_(std::move(path)), file_(std::move(file)) {
  require<FileError>(file_.get() >= 0, "{}: cannot open: {}", path_, errno_text(errno));
  struct stat status {};
  const int error = error_of([&] { return ::fstat(file_.get(), &status); });
  require<FileError>(error == 0, "{}: cannot examine: {}", path_, errno_text(error));
  require<FileError>(!S_ISDIR(status.st_mode), "{}: expected a file, found a folder", path_);
  require<FileError>(S_ISREG(status.st_mode), "{}: not a regular file", path_);
  size_ = static_cast<uint64_t>(status.st_size);
}

void InputFile::read(void* data, std::size_t count, uint64_t offset) const {
  auto* out = static_cast<char*>(data);
  const uint64_t end = offset + count;
  while (count > 0) {
    const ssize_t got =
        ::pread(file_.get(), out, std::min(count, kLargestTransfer), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    require<FileError>(got >= 0, "{}: cannot read: {}", path_, errno_text(errno));
    require<FileError>(got > 0, "{}: the file ends at byte {}, expected {} bytes", path_, offset, end);
    out += got;
    count -= static_cast<std::size_t>(got);
    offset += static_cast<uint64_t>(got);
  }
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  c_path(path_);
  require<FileError>(is_plain_basename(base_name(path_)), "{}: not the name of a file", escaped(path_));
  struct stat status {};
  // rename() would report this error only after everything is written.
  if (::stat(path_.c_str(), &status) == 0)
    require<FileError>(!S_ISDIR(status.st_mode), "{}: cannot write: it is a folder", path_);
  file_ = FileDescriptor(open_temporary(path_, temporary_));
  if (file_.get() < 0) {
    temporary_.clear();
    fail_with("create", errno);
  }
}

AtomicFile::~AtomicFile() {
  file_.reset();
  if (!temporary_.empty()) error_of([&] { return ::unlink(temporary_.c_str()); });
}

void AtomicFile::fail_with(std::string_view action, int error) const {
  fail<FileError>("{}: cannot {}: {}", path_, action, errno_text(error));
}

void AtomicFile::write(const void* data, std::size_t count) {
  const auto* bytes = static_cast<const char*>(data);
  if (buffer_.size() + count < kWriteBuffer) {
    buffer_.append(bytes, count);
    return;
  }
  write_through(buffer_.data(), buffer_.size());
  buffer_.clear();
  write_through(bytes, count);
}

void AtomicFile::write_through(const char* data, std::size_t count) {
  const int error = write_all(file_.get(), data, count);
  if (error != 0) fail_with("write", error);
}

void AtomicFile::finish() {
  write_through(buffer_.data(), buffer_.size());
  buffer_.clear();
  // A failed fsync may have dropped the dirty pages. The file is discarded and never synced again.
  const int error = error_of([&] { return ::fsync(file_.get()); });
  if (error != 0) fail_with("sync", error);
  // Linux frees the descriptor even if a signal interrupts close(). All bytes are on the disk already.
  if (::close(file_.release()) != 0 && errno != EINTR) fail_with("close", errno);
}

void AtomicFile::publish() {
  const int error = error_of([&] { return ::rename(temporary_.c_str(), path_.c_str()); });
  if (error != 0) fail_with("rename the finished file", error);
  temporary_.clear();
}

void AtomicFile::commit() {
  finish();
  publish();
  sync_folder(parent_folder(path_));
}

std::string internal::read_whole_file(const InputFile& file, std::size_t max_bytes) {
  require<FileError>(file.size() <= max_bytes, "{}: {} bytes, at most {} are accepted", file.path(),
                     file.size(), max_bytes);
  std::string text(file.size(), '\0');
  file.read(text.data(), text.size(), 0);
  return text;
}

std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes) {
  return read_whole_file(InputFile(path.native()), max_bytes);
}

void write_file(std::string_view bytes, const std::filesystem::path& path) {
  AtomicFile file(path.native());
  file.write(bytes);
  file.commit();
}

void create_folders(const std::filesystem::path& given) {
  const std::string& path = given.native();
  c_path(path);
  std::size_t slash = 0;
  while (slash != std::string::npos) {
    slash = path.find('/', slash + 1);
    const std::string part = path.substr(0, slash);
    const int error = error_of([&] { return ::mkdir(part.c_str(), 0777); });
    // On a read-only parent, mkdir may fail with EROFS or EACCES for a folder that exists.
    require<FileError>(error == 0 || folder_exists(part), "cannot create folder {}: {}", part,
                       errno_text(error));
    if (error == 0) sync_folder(parent_folder(part));
  }
}

void remove_folder(const std::filesystem::path& given) {
  const std::string& path = given.native();
  FileDescriptor folder(open_retrying(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  if (folder.get() < 0 && errno == ENOENT) return;
  require<FileError>(folder.get() >= 0, "cannot remove folder {}: {}", path, errno_text(errno));
  remove_entries(std::move(folder), path);
  const int error = error_of([&] { return ::rmdir(path.c_str()); });
  require<FileError>(error == 0 || error == ENOENT, "cannot remove folder {}: {}", path, errno_text(error));
}

void remove_file(const std::filesystem::path& given) {
  const std::string& path = given.native();
  const int error = error_of([&] { return ::unlink(c_path(path)); });
  require<FileError>(error == 0 || error == ENOENT, "cannot remove {}: {}", path, errno_text(error));
}

void sync_folder(const std::filesystem::path& given) {
  const std::string& path = given.native();
  const FileDescriptor folder(open_retrying(path, O_RDONLY | O_DIRECTORY));
  require<FileError>(folder.get() >= 0, "cannot open folder {}: {}", path, errno_text(errno));
  const int error = error_of([&] { return ::fsync(folder.get()); });
  // Some file systems cannot sync a folder and return EINVAL. There is no alternative on them.
  require<FileError>(error == 0 || error == EINVAL, "cannot sync folder {}: {}", path, errno_text(error));
}

void rename_path(const std::filesystem::path& from, const std::filesystem::path& to) {
  const int error = error_of([&] { return ::rename(c_path(from.native()), c_path(to.native())); });
  require<FileError>(error == 0, "cannot rename {} to {}: {}", from.native(), to.native(), errno_text(error));
  sync_folder(parent_folder(to));
}

bool file_exists(const std::filesystem::path& path) { return S_ISREG(mode_or_zero(path.native())); }

bool folder_exists(const std::filesystem::path& path) { return S_ISDIR(mode_or_zero(path.native())); }

std::vector<std::string> list_folder(const std::filesystem::path& given) {
  const std::string& path = given.native();
  FileDescriptor descriptor(open_retrying(path, O_RDONLY | O_DIRECTORY));
  require<FileError>(descriptor.get() >= 0, "cannot list folder {}: {}", path, errno_text(errno));
  const Folder folder(::fdopendir(descriptor.get()), ::closedir);
  require<FileError>(folder != nullptr, "cannot list folder {}: {}", path, errno_text(errno));
  descriptor.release();
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(folder.get())) {
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0)
      names.emplace_back(entry->d_name);
    errno = 0;
  }
  require<FileError>(errno == 0, "cannot list folder {}: {}", path, errno_text(errno));
  std::sort(names.begin(), names.end());
  return names;
}

std::string join_path(const std::filesystem::path& folder, std::string_view name) {
  std::string path = folder.native();
  if (!path.empty() && path.back() != '/') path += '/';
  return path.append(name);
}

std::string base_name(const std::filesystem::path& path) {
  const std::string& text = path.native();
  const auto slash = text.rfind('/');
  return slash == std::string::npos ? text : text.substr(slash + 1);
}

std::string parent_folder(const std::filesystem::path& path) {
  const std::string& text = path.native();
  const auto slash = text.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : text.substr(0, slash);
}

bool is_plain_basename(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

void require_plain_basename(std::string_view name, std::string_view what) {
  require<FileError>(is_plain_basename(name), "{} {} is not a plain file name", what, escaped(name));
}

}  // namespace diffusers
