#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/pipelines/pipeline_component.h>

/// @file
/// Registration of pipeline classes and component classes that a program defines. Example of a pipeline class
/// with a model of the library and a scheduler:
///
///     class ColdPipeline : public diffusers::TypedPipeline<ColdPipeline> {
///      public:
///       static const diffusers::PipelineSpec& spec() {
///         static const diffusers::PipelineSpec spec{
///             .class_name = "ColdPipeline", .components = {{"unet", {"UNet2DModel"}}, {"scheduler"}}};
///         return spec;
///       }
///       explicit ColdPipeline(diffusers::PipelineComponents components)
///           : TypedPipeline(std::move(components)) {}
///       diffusers::ImagePipelineOutput operator()(const diffusers::Tensor& noise, int64_t steps) {
///         const diffusers::InferenceGuard guard(*this);
///         scheduler().set_timesteps(steps, {.device = device()});
///         const auto unet = diffusers::make_denoiser(component<diffusers::UNet2DModel>("unet"));
///         return {diffusers::denoise(*this, unet, {}, noise, steps)};
///       }
///     };
///     diffusers::register_pipeline<ColdPipeline>();
///     auto pipeline = diffusers::DiffusionPipeline::from_pretrained("folder of a ColdPipeline");

namespace diffusers {
namespace detail {
/// Loads a pipeline of one class.
using LoadPipeline = std::unique_ptr<DiffusionPipeline> (*)(const std::filesystem::path& folder,
                                                            const PipelineLoadOptions& options);
/// Loads the component in the subfolder `name` of a pipeline's folder.
using LoadComponent = PipelineComponent (*)(const std::filesystem::path& folder, const std::string& name,
                                            const PipelineLoadOptions& options);

/// Loads a pipeline by `Pipeline::from_pretrained`.
template <class Pipeline>
std::unique_ptr<DiffusionPipeline> load_pipeline(const std::filesystem::path& folder,
                                                 const PipelineLoadOptions& options) {
  return std::make_unique<Pipeline>(Pipeline::from_pretrained(folder, options));
}
/// Loads a component by `Model::from_pretrained`.
template <class Model>
PipelineComponent load_model_component(const std::filesystem::path& folder, const std::string& name,
                                       const PipelineLoadOptions& options) {
  return Model::from_pretrained(
      folder,
      {.subfolder = name, .variant = options.variant, .dtype = options.dtype, .device = options.device});
}

/// Registers a pipeline class.
/// @throws ConfigError if another class is registered under the name
void add_pipeline_class(const std::string& class_name, LoadPipeline load);
/// Registers a component class.
/// @throws ConfigError if another class is registered under the name
void add_component_class(const std::string& class_name, LoadComponent load);
}  // namespace detail

/// Makes `DiffusionPipeline::from_pretrained` load folders whose `_class_name` is `Pipeline`'s. Registering a
/// class again has no effect. Thread-safe.
/// @tparam Pipeline a class that derives from TypedPipeline
/// @throws ConfigError if another class is registered under the name
template <class Pipeline>
void register_pipeline() {
  detail::add_pipeline_class(Pipeline::spec().class_name, &detail::load_pipeline<Pipeline>);
}

/// Makes pipelines load components whose class in model_index.json is `class_name`. The models of the
/// library are registered already. Registering a class again has no effect. Thread-safe.
/// @tparam Model a handle with `static Model from_pretrained(folder, const ModelLoadOptions&)`
/// @param class_name name of the class in model_index.json; default: `kClassName` of the model
/// @throws ConfigError if another class is registered under the name
template <class Model>
void register_pipeline_component(
    const std::string& class_name = std::string(Model::ContainedType::kClassName)) {
  detail::add_component_class(class_name, &detail::load_model_component<Model>);
}

}  // namespace diffusers
