// Folders of pipelines: model_index.json and a subfolder for each component.

#include <algorithm>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/pipelines/diffusion_pipeline.h>

#include "core/require.h"
#include "io/model_index.h"
#include "io/open_model_file.h"
#include "pipelines/known_classes.h"

namespace diffusers {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::ranges::find(names, name) != names.end();
}

/// Checks the components that the index of a folder names against those of the pipeline's class.
void check_folder(const PipelineSpec& spec, const std::filesystem::path& folder, const ModelIndex& index) {
  const std::string path = (folder / "model_index.json").string();
  std::vector<std::string> names;
  for (const PipelineComponentSpec& component : spec.components) names.push_back(component.name);
  for (const auto& [name, class_name] : index.components)
    require<FileError>(class_name.empty() || contains(names, name) || contains(spec.ignored_components, name),
                       "{}: component \"{}\" ({}) is none of {}, which has: {}", path, name, class_name,
                       spec.class_name, fmt::join(names, ", "));
  for (const auto& [name, class_names, is_optional] : spec.components) {
    const auto found = index.components.find(name);
    const bool is_listed = found != index.components.end();
    if (is_optional && (!is_listed || found->second.empty())) continue;
    require<FileError>(is_listed, "{}: component \"{}\" is missing, {} needs it", path, name,
                       spec.class_name);
    require<FileError>(!found->second.empty(), "{}: component \"{}\" is absent, {} needs it", path, name,
                       spec.class_name);
    require<FileError>(folder_exists(folder_inside(folder.string(), name)),
                       "{}: the folder of component \"{}\" ({}) is missing: {}", path, name, found->second,
                       (folder / name).string());
    require<FileError>(class_names.empty() || contains(class_names, found->second),
                       "{}: component \"{}\" is a {}, {} takes a {}", folder.string(), name, found->second,
                       spec.class_name, fmt::join(class_names, " or "));
  }
}

}  // namespace

std::unique_ptr<DiffusionPipeline> DiffusionPipeline::from_pretrained(const std::filesystem::path& folder,
                                                                      const PipelineLoadOptions& options) {
  const std::string class_name = read_model_index(folder, "DiffusionPipeline").class_name;
  const detail::LoadPipeline load = find_pipeline_class(class_name);
  require<FileError>(load != nullptr, "{}: _class_name is \"{}\", expected one of: {}",
                     (folder / "model_index.json").string(), class_name,
                     fmt::join(pipeline_class_names(), ", "));
  return load(folder, options);
}

DiffusionPipeline::Folder DiffusionPipeline::load_folder(const PipelineSpec& spec,
                                                         const std::filesystem::path& folder,
                                                         const PipelineLoadOptions& options) {
  const ModelIndex index = read_model_index(folder, spec.class_name);
  check_folder(spec, folder, index);
  Folder loaded{.components = {}, .settings = spec.settings, .ignored_components = {}, .path = folder};
  for (const auto& [name, class_name] : index.components) {
    if (class_name.empty()) continue;
    if (contains(spec.ignored_components, name)) {
      loaded.ignored_components.push_back(name);
    } else {
      loaded.components[name] = load_component(folder, name, class_name, options);
    }
  }
  for (auto& [name, value] : loaded.settings)
    if (const auto found = index.settings.find(name); found != index.settings.end()) value = found->second;
  return loaded;
}

void DiffusionPipeline::save_pretrained(const std::filesystem::path& folder) const {
  create_folders(folder);
  ModelIndex index{.class_name = class_name(), .components = {}, .settings = settings_};
  for (const std::string& name : spec_->ignored_components) index.components[name] = "";
  for (const auto& [name, component] : components_) {
    index.components[name] = component.class_name();
    if (component.has_value()) component.save_pretrained(folder / name);
  }
  // The index is written last, so that a folder with an index is complete.
  write_model_index(index, folder);
}

}  // namespace diffusers
