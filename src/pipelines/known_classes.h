#pragma once

// The classes of pipelines and components that a folder may name.

#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/pipelines/register_pipeline.h>

namespace diffusers {
inline namespace internal {

/// The function that loads pipelines of a class; null if the class is not known.
detail::LoadPipeline find_pipeline_class(const std::string& class_name);
/// The names of all known pipeline classes, sorted.
std::vector<std::string> pipeline_class_names();

/// Loads the component `name` of a pipeline's folder.
/// @param class_name as model_index.json gives it
/// @throws FileError if the class is not known, naming the known ones, or if the component is missing or
/// malformed
PipelineComponent load_component(const std::filesystem::path& folder, const std::string& name,
                                 const std::string& class_name, const PipelineLoadOptions& options);

}  // namespace internal
}  // namespace diffusers
