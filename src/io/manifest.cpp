#include "io/manifest.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <diffusers/io/files.h>

#include <sys/stat.h>

#include "core/json.h"
#include "core/require.h"
#include "io/folders.h"
#include "io/open_model_file.h"
#include "io/posix_file.h"
#include "io/sha256.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr const char* kManifestFile = "manifest.json";

/// Appends the files below a folder, as paths relative to `root`, sorted in each folder.
void collect_files(const std::string& root, const std::string& relative, std::vector<std::string>& files) {
  for (const std::string& name : list_folder(join_path(root, relative))) {
    const std::string path = join_path(relative, name);
    const std::string full = join_path(root, path);
    const mode_t mode = mode_of(full);
    if (S_ISDIR(mode)) {
      collect_files(root, path, files);
    } else if (S_ISREG(mode)) {
      files.push_back(path);
    } else {
      fail<FileError>("{} is neither a file nor a folder", escaped(full));
    }
  }
}

std::string sha256_of_file(const InputFile& file) {
  Sha256 sha;
  std::string buffer(std::size_t{1} << 20, '\0');
  for (uint64_t offset = 0; offset < file.size();) {
    const auto count = static_cast<std::size_t>(std::min<uint64_t>(buffer.size(), file.size() - offset));
    file.read(buffer.data(), count, offset);
    sha.update(std::string_view(buffer).substr(0, count));
    offset += count;
  }
  return sha.hex_digest();
}

}  // namespace

void write_manifest(const std::string& folder) {
  sync_tree(folder);
  std::vector<std::string> paths;
  collect_files(folder, "", paths);
  Json files = Json::object();
  for (const std::string& path : paths) {
    const InputFile file(join_path(folder, path));
    files[path] = {{"size", file.size()}, {"sha256", sha256_of_file(file)}};
  }
  write_file(dump_json({{"version", 1}, {"files", files}}), join_path(folder, kManifestFile));
}

void verify_manifest(const std::string& folder) {
  const std::string manifest = join_path(folder, kManifestFile);
  try {
    const std::string text = read_text_file(manifest);
    // A JSON object without its final line break still parses, so this check detects a truncated file.
    require<FileError>(text.ends_with("}\n"), "{} is cut short", escaped(manifest));
    const Json json = parse_json(text, manifest);
    require<FileError>(json.is_object() && json.value("version", 0) == 1 && json.contains("files") &&
                           json.at("files").is_object() && !json.at("files").empty(),
                       "{} is not a manifest of version 1", escaped(manifest));
    for (const auto& [path, entry] : json.at("files").items()) {
      const std::string full = join_path(folder, path);
      require<FileError>(!path.starts_with('/') && path.find("..") == std::string::npos,
                         "{} names a file outside of its folder: {}", escaped(manifest), escaped(path));
      // The manifest names every file that is read later. A link that leads out of the folder is an error
      // here.
      const InputFile file = open_model_file(folder_inside(folder, parent_folder(path)), base_name(path));
      require<FileError>(file.size() == entry.at("size").get<uint64_t>(),
                         "{} has {} bytes, its manifest says {}", escaped(full), file.size(),
                         entry.at("size").get<uint64_t>());
      require<FileError>(sha256_of_file(file) == entry.at("sha256").get<std::string>(),
                         "the content of {} is not what its manifest says (SHA-256)", escaped(full));
    }
  } catch (const Json::exception& error) {
    fail<FileError>("{} is damaged: {}", escaped(manifest), error.what());
  }
}

}  // namespace internal
}  // namespace diffusers
