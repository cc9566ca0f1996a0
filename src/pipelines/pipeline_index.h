#pragma once

#include <filesystem>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>

namespace diffusers {

/// The components of a pipeline folder: name -> class name, e.g. "unet" -> "UNet2DModel".
using PipelineComponents = std::map<std::string, std::string>;

/// Options of a pipeline's constructor that stand in its index: "requires_safety_checker".
using PipelineSettings = std::map<std::string, bool>;

/// Reads model_index.json and checks that it names the components `names`, and no others than `optional`.
/// Absent ones ([null, null]) that are not asked for are left out.
/// @param settings those that it has are overwritten by what the index says
/// @throws FileError naming the folder, the component and what was expected
PipelineComponents read_pipeline_index(const std::filesystem::path& folder, std::string_view pipeline_class,
                                       std::initializer_list<std::string_view> names,
                                       std::initializer_list<std::string_view> optional = {},
                                       PipelineSettings* settings = nullptr);

/// Writes model_index.json as Python does: the classes of CLIP are of the library "transformers", all others
/// of "diffusers"; a component without a class is absent.
void write_pipeline_index(const std::filesystem::path& folder, std::string_view pipeline_class,
                          const PipelineComponents& components, const PipelineSettings& settings = {});

}  // namespace diffusers
