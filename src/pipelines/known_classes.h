#pragma once

// The known classes of pipelines and components.

#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/pipelines/register_pipeline.h>

namespace diffusers {
inline namespace internal {

/// Returns the function that loads pipelines of a class; null if the class is not known.
detail::LoadPipeline find_pipeline_class(const std::string& class_name);
/// Returns the names of all known pipeline classes, sorted.
std::vector<std::string> pipeline_class_names();

/// Loads the component `name` of a pipeline's folder.
/// @param class_name class name in model_index.json
/// @throws FileError if the class is not known, naming the known ones, or if the component is missing or
/// malformed
PipelineComponent load_component(const std::filesystem::path& folder, const std::string& name,
                                 const std::string& class_name, const PipelineLoadOptions& options);

}  // namespace internal
}  // namespace diffusers
