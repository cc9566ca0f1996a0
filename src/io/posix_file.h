#pragma once

// Files by POSIX calls. Every error is checked and reported. Nothing is memory-mapped, because a mapped file
// that another process truncates causes SIGBUS. LibTorch's copy of std::filesystem is not used.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace diffusers {
inline namespace internal {

/// A name or path for error messages: in quotes, with control and non-ASCII characters escaped, shortened.
/// The work is done when it is formatted.
struct Escaped {
  std::string_view text;
};
inline Escaped escaped(std::string_view text) { return {text}; }
std::string format_as(const Escaped& name);

/// Returns the text of an errno, such as "No space left on device".
std::string errno_text(int error);

/// Owns an open file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~FileDescriptor() { reset(); }

  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  void reset();

 private:
  int fd_ = -1;
};

/// A regular file open for reading. The files of a model folder are opened by io/model_file.h.
class InputFile {
 public:
  /// @throws FileError if it is missing or not a regular file
  explicit InputFile(const std::string& path);
  /// @param path path of the open file, for error messages
  /// @throws FileError if it is not a regular file
  InputFile(FileDescriptor file, std::string path);

  const std::string& path() const { return path_; }
  /// Returns the size in bytes at the time of opening.
  uint64_t size() const { return size_; }
  /// Reads exactly `count` bytes at `offset`.
  /// @throws FileError if the file ends early
  void read(void* data, std::size_t count, uint64_t offset) const;

 private:
  std::string path_;
  FileDescriptor file_;
  uint64_t size_ = 0;
};

/// Reads all bytes of a file.
/// @throws FileError before memory is allocated if the file has more than `max_bytes`
std::string read_whole_file(const InputFile& file, std::size_t max_bytes);

/// Writes a file atomically: `commit` syncs it to disk and gives it its name. Without `commit` the destructor
/// removes it. `finish` and `publish` are the two halves of `commit`, for several files that should appear
/// together.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  const std::string& path() const { return path_; }
  void write(const void* data, std::size_t count);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  /// Syncs all written bytes to disk, under the temporary name.
  void finish();
  /// Renames the finished file. The folder is not synced.
  void publish();
  void commit();

 private:
  void write_through(const char* data, std::size_t count);
  [[noreturn]] void fail_with(std::string_view action, int error) const;

  std::string path_;
  std::string temporary_;
  FileDescriptor file_;
  std::string buffer_;
};

}  // namespace internal
}  // namespace diffusers
