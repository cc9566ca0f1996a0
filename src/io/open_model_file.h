#pragma once

// Opens the files of model folders and the files that a dataset's metadata name. Such folders are not
// trusted, because their links may lead anywhere.
//
// A link below the given folder is followed if its target is inside that folder. For CACHE/snapshots/REVISION
// of the Hugging Face Hub's cache and the folders below it, the target may also be a file of CACHE/blobs.
// Every other link is an error. The given folder may be a link itself.

#include <string>
#include <string_view>

#include <diffusers/io/model_file.h>

#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {

/// Returns the path of `subfolder` below `folder`, for opening files in it.
/// @param subfolder one or more plain names with slashes between them; empty for `folder` itself
/// @throws FileError if `subfolder` is absolute, contains `..`, or leads out of `folder` by a link. A missing
///   folder is not an error here.
std::string folder_inside(const std::string& folder, std::string_view subfolder);

/// Opens the file `name` of `folder`; read_model_file() of <diffusers/io/model_file.h> reads it. After the
/// check, opening follows no links below `folder`, so that nothing can be exchanged in between.
/// @throws FileError unless `name` is the plain name of a regular file inside of the allowed folders
InputFile open_model_file(const std::string& folder, std::string_view name);

/// Opens a file at any depth below `folder`, by the same rules.
/// @param path plain names with slashes between them; "." is skipped
/// @throws FileError unless `path` leads to a regular file inside of the allowed folders
InputFile open_file_inside(const std::string& folder, std::string_view path);

/// Reads a file at any depth below `folder`.
/// @param path as for open_file_inside
/// @param max_bytes largest size; a larger file is an error before memory is allocated
/// @throws FileError as open_file_inside, or if the file is too large or cannot be read
std::string read_file_inside(const std::string& folder, std::string_view path, std::size_t max_bytes);

/// Runs the checks of open_file_inside without opening the file.
/// @throws FileError as open_file_inside
void require_file_inside(const std::string& folder, std::string_view path);

}  // namespace internal
}  // namespace diffusers
