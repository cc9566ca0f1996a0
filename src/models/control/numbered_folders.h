#pragma once

// The folders of several models of one class: `folder`, `folder_1`, `folder_2`, ...

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/models/model.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

/// Returns `folder` for the first model, then folder_1, folder_2, ...
inline std::filesystem::path numbered_folder(const std::filesystem::path& folder, std::size_t index) {
  return index == 0 ? folder : std::filesystem::path(fmt::format("{}_{}", folder.string(), index));
}

/// Saves each model in its folder.
template <class Model>
void save_numbered(const std::vector<Model>& models, const std::filesystem::path& folder,
                   const ModelSaveOptions& options) {
  for (std::size_t i = 0; i < models.size(); ++i)
    models[i]->save_pretrained(numbered_folder(folder, i), options);
}

/// Loads models as long as there is a folder with the next number. The folders are siblings: inside of
/// `folder`, or next to it if there is no subfolder.
template <class Model>
std::vector<Model> load_numbered(const std::filesystem::path& folder, const ModelLoadOptions& options) {
  const bool is_named = options.subfolder.empty();
  const auto root = is_named ? std::filesystem::path(parent_folder(folder.string())) : folder;
  const std::string first = is_named ? base_name(folder.string()) : options.subfolder;
  ModelLoadOptions each = options;
  std::vector<Model> models{Model::from_pretrained(folder, options)};
  while (true) {
    each.subfolder = numbered_folder(first, models.size()).string();
    if (!folder_exists((root / each.subfolder).string())) return models;
    models.push_back(Model::from_pretrained(root, each));
  }
}

}  // namespace internal
}  // namespace diffusers
