#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace diffusers {

/// Reads a whole regular file.
/// @param max_bytes larger files are refused before anything is allocated
/// @throws FileError naming the path if it is missing, no regular file, too large or cannot be read
std::string read_text_file(const std::string& path, std::size_t max_bytes = std::size_t{16} << 20);

/// Replaces or creates `path` in one step: whoever looks, now or after a crash, finds the old file or the new
/// one, complete. The bytes go to a temporary file next to it, which is synced to disk and renamed; the
/// folder is synced after that. Nothing is left behind on failure.
/// @throws FileError naming the path and the system's reason
void write_file_atomically(const std::string& path, std::string_view bytes);

/// Creates a folder and its missing parents, so that they survive a power cut. An existing folder is fine.
void create_folders(const std::string& path);

/// Removes a folder and all that is in it, without following symbolic links. A missing folder is fine.
void remove_folder(const std::string& path);

/// Removes a file. A missing file is fine.
void remove_file(const std::string& path);

/// Makes renames and new names in a folder survive a power cut.
void sync_folder(const std::string& path);

/// Renames within one file system, replacing a file of that name, and syncs the parent folder.
void rename_path(const std::string& from, const std::string& to);

/// True if `path` is a regular file (or a link to one).
bool file_exists(const std::string& path);
/// True if `path` is a folder (or a link to one).
bool folder_exists(const std::string& path);
/// Names in a folder, without "." and "..", sorted.
std::vector<std::string> list_folder(const std::string& path);

/// `folder` and `name` with one slash between them; `name` alone if `folder` is empty.
std::string join_path(std::string_view folder, std::string_view name);
/// The part after the last slash.
std::string base_name(std::string_view path);
/// The part before the last slash; "." where there is none.
std::string parent_folder(std::string_view path);

/// True if `name` can only name something directly inside a folder: not empty, ".", "..", and without '/',
/// '\\' or NUL.
bool is_plain_basename(std::string_view name);
/// @param what what the name is, for the message
/// @throws FileError unless `is_plain_basename(name)`
void require_plain_basename(std::string_view name, std::string_view what);

}  // namespace diffusers
