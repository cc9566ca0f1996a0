#pragma once

// System calls that are repeated after a signal, and helpers for files of a program that may be killed.

#include <cerrno>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// Makes a system call and repeats it if a signal interrupts it.
/// @return 0, or the errno of the failure
template <class Call>
int error_of(Call call) {
  while (call() < 0)
    if (errno != EINTR) return errno;
  return 0;
}

/// Returns the path for a system call.
/// @throws FileError if it is empty, contains a NUL byte (a system call would ignore what follows) or is not
///   UTF-8 (a name that JSON files could not hold)
const char* c_path(const std::string& path);

/// Calls open(2) with O_CLOEXEC and repeats it if a signal interrupts it. @return -1 with errno on failure
int open_retrying(const std::string& path, int flags, unsigned mode = 0);

/// Appends bytes to a file, which is created if it does not exist. The bytes are not synced.
/// @throws FileError on failure
void append_to_file(const std::string& path, std::string_view bytes);

/// Syncs a file to disk. A link is not followed.
/// @throws FileError on failure
void sync_file(const std::string& path);

/// Returns a new name for a temporary file or folder next to `path`. It contains a part of the name of
/// `path`.
std::string temporary_path(const std::string& path);
/// Returns true for the names of temporary_path(). A killed process leaves such files.
bool is_temporary_name(std::string_view name);

}  // namespace internal
}  // namespace diffusers
