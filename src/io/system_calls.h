#pragma once

// System calls that a signal does not disturb, and the small files of a program that may be killed.

#include <cerrno>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// Makes a system call, again as long as a signal interrupts it.
/// @return 0, or the errno that it failed with
template <class Call>
int error_of(Call call) {
  while (call() < 0)
    if (errno != EINTR) return errno;
  return 0;
}

/// The path for a system call.
/// @throws FileError if it is empty, contains a NUL byte (a system call would ignore what follows) or is not
///   UTF-8 (a name that JSON files could not hold)
const char* c_path(const std::string& path);

/// open(2) with O_CLOEXEC, again as long as a signal interrupts it. @return -1 with errno on failure
int open_retrying(const std::string& path, int flags, unsigned mode = 0);

/// Adds bytes at the end of a file, which is made if need be; they are not synced.
/// @throws FileError
void append_to_file(const std::string& path, std::string_view bytes);

/// What is in a file survives a power cut. A link is not followed.
/// @throws FileError
void sync_file(const std::string& path);

/// A new name for a temporary file or folder next to `path`, which holds a part of its name.
std::string temporary_path(const std::string& path);
/// True for the names that temporary_path() gives: a process that was killed leaves such files.
bool is_temporary_name(std::string_view name);

}  // namespace internal
}  // namespace diffusers
