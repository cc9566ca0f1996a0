#pragma once

// System calls that a signal does not disturb, and the small files of a program that may be killed.

#include <cerrno>
#include <string>
#include <string_view>

namespace diffusers {

/// Makes a system call, again as long as a signal interrupts it.
/// @return 0, or the errno that it failed with
template <class Call>
int error_of(Call call) {
  while (call() < 0)
    if (errno != EINTR) return errno;
  return 0;
}

/// open(2) with O_CLOEXEC, again as long as a signal interrupts it. @return -1 with errno on failure
int open_retrying(const std::string& path, int flags, unsigned mode = 0);

/// Adds bytes at the end of a file, which is made if need be; they are not synced.
/// @throws FileError
void append_to_file(const std::string& path, std::string_view bytes);

/// What is in a file survives a power cut. A link is not followed.
/// @throws FileError
void sync_file(const std::string& path);

/// True for the names that AtomicFile gives to its temporary files: a process that was killed leaves them.
bool is_temporary_name(std::string_view name);

}  // namespace diffusers
