#include "pipelines/pipeline_index.h"

#include <algorithm>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>

#include "core/json.h"
#include "core/require.h"
#include "io/open_model_file.h"

namespace diffusers {

PipelineComponents read_pipeline_index(const std::filesystem::path& folder, std::string_view pipeline_class,
                                       std::initializer_list<std::string_view> names,
                                       std::initializer_list<std::string_view> optional,
                                       PipelineSettings* settings) {
  require<FileError>(folder_exists(folder), "{} cannot be loaded: there is no folder {}", pipeline_class,
                     folder.string());
  const std::string path = folder / "model_index.json";
  require<FileError>(file_exists(path),
                     "{} cannot be loaded: {} has no model_index.json, which names its components",
                     pipeline_class, folder.string());
  const Json index = parse_json(read_model_file(folder.string(), "model_index.json"), path);
  require<FileError>(index.is_object(), "{}: expected a JSON object", path);

  PipelineComponents components;
  for (const auto& [name, entry] : index.items()) {
    // A component is a pair [library, class]; anything else is an option of the pipeline's constructor.
    if (settings != nullptr && settings->contains(name) && entry.is_boolean())
      (*settings)[name] = entry.get<bool>();
    if (name.starts_with('_') || !entry.is_array()) continue;
    const bool is_known = std::find(names.begin(), names.end(), name) != names.end();
    const bool is_pair = entry.size() == 2 && entry[0].type() == entry[1].type();
    if (is_pair && entry[0].is_null()) {
      require<FileError>(!is_known, "{}: component \"{}\" is absent, {} needs it", path, name,
                         pipeline_class);
      continue;
    }
    require<FileError>(is_pair && entry[0].is_string(),
                       "{}: component \"{}\" is {}, expected [library, class]", path, name,
                       json_excerpt(entry));
    const bool is_optional = std::find(optional.begin(), optional.end(), name) != optional.end();
    require<FileError>(is_known || is_optional, "{}: component \"{}\" ({}) is none of {}, which has: {}",
                       path, name, entry[1].get<std::string>(), pipeline_class, fmt::join(names, ", "));
    components[name] = entry[1].get<std::string>();
  }
  for (const std::string_view name : names)
    require<FileError>(components.contains(std::string(name)), "{}: component \"{}\" is missing, {} needs it",
                       path, name, pipeline_class);
  for (const std::string_view name : names)
    require<FileError>(folder_exists(folder_inside(folder.string(), name)),
                       "{}: the folder of component \"{}\" ({}) is missing: {}", path, name,
                       components.at(std::string(name)), (folder / name).string());
  return components;
}

void write_pipeline_index(const std::filesystem::path& folder, std::string_view pipeline_class,
                          const PipelineComponents& components, const PipelineSettings& settings) {
  Json index = {{"_class_name", pipeline_class}, {"_diffusers_version", "0.42.1"}};
  for (const auto& [name, class_name] : components) {
    const char* library = class_name.starts_with("CLIP") ? "transformers" : "diffusers";
    index[name] = class_name.empty() ? Json::array({nullptr, nullptr}) : Json::array({library, class_name});
  }
  for (const auto& [name, value] : settings) index[name] = value;
  write_file(dump_json(index), folder / "model_index.json");
}

}  // namespace diffusers
