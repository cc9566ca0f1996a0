#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// Content of model_index.json, the file that marks a folder as a pipeline.
struct ModelIndex {
  /// `_class_name`, the class of the pipeline; empty if the file does not have the key.
  std::string class_name = {};
  /// Class of each component, such as "unet" -> "UNet2DModel". An empty class means that the component is
  /// absent, which Python writes as [null, null].
  std::map<std::string, std::string> components = {};
  /// Booleans of the pipeline's constructor, such as "requires_safety_checker".
  std::map<std::string, bool> settings = {};
};

/// Reads FOLDER/model_index.json.
/// @param reader name of the class that loads the folder, for error messages
/// @throws FileError naming the folder and what was expected if the folder or the file is missing or
/// malformed
ModelIndex read_model_index(const std::filesystem::path& folder, std::string_view reader);

/// Writes FOLDER/model_index.json as Python writes it. The library of a component is "transformers" for the
/// classes that begin with CLIP and "diffusers" for all others.
/// @throws FileError if it cannot be written
void write_model_index(const ModelIndex& index, const std::filesystem::path& folder);

}  // namespace internal
}  // namespace diffusers
