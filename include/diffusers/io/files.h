#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

/// @file
/// Files and folders. A path is a `std::filesystem::path`; strings convert to it. Every function throws
/// FileError for a path that is empty, contains a NUL byte or is not UTF-8, except where its comment says
/// otherwise.

namespace diffusers {

/// Reads a whole regular file.
/// @param path path of the file
/// @param max_bytes largest size; a larger file is an error before memory is allocated
/// @return all bytes of the file
/// @throws FileError naming the path if the file is missing, not regular, too large or cannot be read
std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes = std::size_t{16} << 20);

/// Replaces or creates a file atomically. The bytes are written to a temporary file in the same folder, which
/// is synced to disk and renamed; then the folder is synced. At any time, and after a crash, `path` names
/// either the complete old file or the complete new one. A failed call removes its temporary file.
/// @param bytes content of the file
/// @param path destination; its folder must exist
/// @throws FileError naming the path and the reason that the system gives
void write_file(std::string_view bytes, const std::filesystem::path& path);

/// Creates a folder and its missing parents, and syncs them to disk. An existing folder is no error.
/// @param path path of the folder
/// @throws FileError naming the path and the reason that the system gives
void create_folders(const std::filesystem::path& path);

/// Removes a folder with its content. Symbolic links are removed, not followed. A missing folder is no error.
/// @param path path of the folder
/// @throws FileError naming the path and the reason that the system gives
void remove_folder(const std::filesystem::path& path);

/// Removes a file. A missing file is no error.
/// @param path path of the file
/// @throws FileError naming the path and the reason that the system gives
void remove_file(const std::filesystem::path& path);

/// Syncs the entries of a folder to disk, so that new names and renames survive a power failure.
/// @param path path of the folder
/// @throws FileError naming the path and the reason that the system gives
void sync_folder(const std::filesystem::path& path);

/// Renames a file or folder within one file system and syncs the parent folder. An existing file `to` is
/// replaced.
/// @param from current path
/// @param to new path
/// @throws FileError naming both paths and the reason that the system gives
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);

/// Checks for a file. Does not throw.
/// @param path any path
/// @return true if `path` is a regular file or a link to one
bool file_exists(const std::filesystem::path& path);
/// Checks for a folder. Does not throw.
/// @param path any path
/// @return true if `path` is a folder or a link to one
bool folder_exists(const std::filesystem::path& path);
/// Lists a folder.
/// @param path path of the folder
/// @return the names in it, sorted, without "." and ".."
/// @throws FileError naming the path and the reason that the system gives
std::vector<std::string> list_folder(const std::filesystem::path& path);

/// Joins `folder` and `name` with one slash between them. Does not check the path.
/// @param folder first part; may be empty
/// @param name second part
/// @return the joined path; `name` alone if `folder` is empty
std::string join_path(const std::filesystem::path& folder, std::string_view name);
/// Returns the part after the last slash. Does not check the path.
/// @param path any path
/// @return the last part
std::string base_name(const std::filesystem::path& path);
/// Returns the part before the last slash. Does not check the path.
/// @param path any path
/// @return the first part; "." if there is no slash
std::string parent_folder(const std::filesystem::path& path);

/// Checks that a name can only name an entry of a folder.
/// @param name any text
/// @return true if `name` is not empty, "." or "..", and contains no '/', '\\' or NUL
bool is_plain_basename(std::string_view name);
/// Checks a name that comes from a file or a user.
/// @param name the name
/// @param what description of the name, for the error message
/// @throws FileError if `is_plain_basename(name)` is false
void require_plain_basename(std::string_view name, std::string_view what);

}  // namespace diffusers
