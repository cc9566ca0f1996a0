#pragma once

// `manifest.json` of a folder: the size and the SHA-256 of each file below it.

#include <string>

namespace diffusers {
inline namespace internal {

/// Syncs all files and folders below `folder`, then writes `manifest.json` into it.
/// @throws FileError if a file cannot be read or written, or if an entry is neither a file nor a folder
void write_manifest(const std::string& folder);

/// Checks each file that `manifest.json` names. Other files are not checked.
/// @throws FileError naming the file that is missing, has another size or another content, or is outside of
///   the folder; also if the manifest itself is missing or damaged
void verify_manifest(const std::string& folder);

}  // namespace internal
}  // namespace diffusers
