#pragma once

#include <filesystem>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>

namespace diffusers {

/// The components of a pipeline folder: name -> class name, e.g. "unet" -> "UNet2DModel".
using PipelineComponents = std::map<std::string, std::string>;

/// Reads model_index.json and checks that it names just the components `names`. Absent ones ([null, null])
/// that are not asked for are left out.
/// @throws FileError naming the folder, the component and what was expected
PipelineComponents read_pipeline_index(const std::filesystem::path& folder, std::string_view pipeline_class,
                                       std::initializer_list<std::string_view> names);

/// Writes model_index.json as Python does; all components are of the library "diffusers".
void write_pipeline_index(const std::filesystem::path& folder, std::string_view pipeline_class,
                          const PipelineComponents& components);

}  // namespace diffusers
