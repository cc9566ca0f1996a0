#pragma once

// The one place that opens the files of a model folder, and those that a dataset's metadata name. Such a
// folder is not trusted: a link in it may lead anywhere.
//
// A link below the folder that the caller named is followed if it leads to a place inside that folder or,
// for CACHE/snapshots/REVISION of the Hugging Face Hub's cache and the folders below it, to a file of
// CACHE/blobs. Every other link is refused. The folder that the caller named may be a link itself.

#include <string>
#include <string_view>

#include <diffusers/io/model_file.h>

#include "io/posix_file.h"

namespace diffusers {
inline namespace internal {

/// The path of `subfolder` below `folder`, for opening files in it.
/// @param subfolder one or more plain names with slashes between them; empty for `folder` itself
/// @throws FileError if `subfolder` is absolute, holds `..`, or leads out of `folder` by a link. A missing
///         folder is for the caller to notice.
std::string folder_inside(const std::string& folder, std::string_view subfolder);

/// Opens the file `name` of `folder`; read_model_file() of <diffusers/io/model_file.h> reads it. No part of
/// the path below `folder` is followed as a link while it is opened, so that nothing can be exchanged after
/// the check.
/// @throws FileError unless `name` is a plain name of a regular file that does not lie outside
InputFile open_model_file(const std::string& folder, std::string_view name);

/// Opens a file at any depth below `folder`, by the same rules.
/// @param path plain names with slashes between them; "." is passed over
/// @throws FileError unless `path` leads to a regular file that does not lie outside
InputFile open_file_inside(const std::string& folder, std::string_view path);

/// Reads a file at any depth below `folder`.
/// @param path as for open_file_inside
/// @param max_bytes larger files are refused before anything is allocated
/// @throws FileError as open_file_inside, or if the file is too large or cannot be read
std::string read_file_inside(const std::string& folder, std::string_view path, std::size_t max_bytes);

/// Checks what open_file_inside checks, and opens nothing.
/// @throws FileError as open_file_inside
void require_file_inside(const std::string& folder, std::string_view path);

}  // namespace internal
}  // namespace diffusers
