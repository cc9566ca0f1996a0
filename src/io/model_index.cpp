#include "io/model_index.h"

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>

#include "core/diffusers_version.h"
#include "core/json.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr const char* kModelIndexFile = "model_index.json";

}  // namespace

ModelIndex read_model_index(const std::filesystem::path& folder, std::string_view reader) {
  require<FileError>(folder_exists(folder), "{} cannot be loaded: there is no folder {}", reader,
                     folder.string());
  const std::string path = join_path(folder, kModelIndexFile);
  require<FileError>(file_exists(path), "{} cannot be loaded: {} has no {}, which names its components",
                     reader, folder.string(), kModelIndexFile);
  const Json json = parse_json(read_model_file(folder, kModelIndexFile), path);
  require<FileError>(json.is_object(), "{}: expected a JSON object", path);

  ModelIndex index;
  if (const auto name = json.find("_class_name"); name != json.end()) {
    require<FileError>(name->is_string(), "{}: _class_name is {}, expected the name of a pipeline's class",
                       path, json_excerpt(*name));
    index.class_name = name->get<std::string>();
  }
  for (const auto& [name, entry] : json.items()) {
    if (name.starts_with('_')) continue;
    if (entry.is_boolean()) index.settings[name] = entry.get<bool>();
    // A component is a pair [library, class]. Any other entry is an option of the pipeline's constructor.
    if (!entry.is_array()) continue;
    const bool is_pair = entry.size() == 2 && entry[0].type() == entry[1].type();
    require<FileError>(is_pair && (entry[0].is_null() || entry[0].is_string()),
                       "{}: component \"{}\" is {}, expected [library, class]", path, name,
                       json_excerpt(entry));
    index.components[name] = entry[1].is_null() ? std::string() : entry[1].get<std::string>();
  }
  return index;
}

void write_model_index(const ModelIndex& index, const std::filesystem::path& folder) {
  Json json = {{"_class_name", index.class_name}, {"_diffusers_version", kDiffusersVersion}};
  for (const auto& [name, class_name] : index.components) {
    const char* library = class_name.starts_with("CLIP") ? "transformers" : "diffusers";
    json[name] = class_name.empty() ? Json::array({nullptr, nullptr}) : Json::array({library, class_name});
  }
  for (const auto& [name, value] : index.settings) json[name] = value;
  write_file(dump_json(json), folder / kModelIndexFile);
}

}  // namespace internal
}  // namespace diffusers
