#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/pipelines/diffusion_pipeline.h>

#include <ATen/ATen.h>
#include <c10/util/Type.h>
#include <torch/nn/module.h>

#include "core/require.h"

namespace diffusers {
namespace {

std::vector<std::string> component_names(const PipelineComponents& components) {
  std::vector<std::string> names;
  for (const auto& [name, component] : components) names.push_back(name);
  return names;
}

bool is_accepted(const PipelineComponentSpec& spec, const PipelineComponent& component) {
  return spec.class_names.empty() ||
         std::ranges::find(spec.class_names, component.class_name()) != spec.class_names.end();
}

/// Checks the components of a new pipeline and adds missing optional components as absent.
void check_components(const PipelineSpec& spec, PipelineComponents& components) {
  for (const auto& entry : components) {
    const std::string& name = entry.first;
    require<ConfigError>(
        std::ranges::any_of(spec.components, [&](const auto& expected) { return expected.name == name; }),
        "{} has no component \"{}\"", spec.class_name, name);
  }
  for (const PipelineComponentSpec& expected : spec.components) {
    const auto found = components.find(expected.name);
    const bool is_given = found != components.end() && found->second.has_value();
    if (!is_given && expected.is_optional) {
      components[expected.name] = {};
      continue;
    }
    require<ConfigError>(found != components.end(), "{}: component \"{}\" is missing, found: {}",
                         spec.class_name, expected.name, fmt::join(component_names(components), ", "));
    require<ConfigError>(is_given, "{}: the {} is empty", spec.class_name, expected.name);
    require<ConfigError>(is_accepted(expected, found->second), "{}: component \"{}\" is a {}, expected a {}",
                         spec.class_name, expected.name, found->second.class_name(),
                         fmt::join(expected.class_names, " or "));
  }
}

PipelineComponent adapted(const PipelineSpec& spec, const Scheduler& scheduler) {
  return spec.adapt_scheduler != nullptr ? PipelineComponent(spec.adapt_scheduler(scheduler))
                                         : PipelineComponent(scheduler);
}

/// Returns the models of a pipeline in the order of its constructor's parameters.
std::vector<std::shared_ptr<torch::nn::Module>> models_of(const PipelineSpec& spec,
                                                          const PipelineComponents& components) {
  std::vector<std::shared_ptr<torch::nn::Module>> models;
  for (const PipelineComponentSpec& expected : spec.components)
    if (const auto model = components.at(expected.name).module()) models.push_back(model);
  return models;
}

/// Moves a model. Its tensors keep their identity, so optimizers and other owners see the change.
void move_model(torch::nn::Module& model, std::optional<at::Device> device,
                std::optional<at::ScalarType> dtype) {
  const at::NoGradGuard no_grad;
  const auto moved = [&](const Tensor& tensor) {
    const at::ScalarType type =
        dtype && at::isFloatingType(tensor.scalar_type()) ? *dtype : tensor.scalar_type();
    return tensor.detach().to(device.value_or(tensor.device()), type);
  };
  const auto move = [&](Tensor& tensor) {
    if (!tensor.defined()) return;
    const Tensor& grad = tensor.grad();
    tensor.set_data(moved(tensor));
    if (grad.defined()) tensor.mutable_grad() = moved(grad);
  };
  for (Tensor& parameter : model.parameters()) move(parameter);
  for (Tensor& buffer : model.buffers()) move(buffer);
}

}  // namespace

DiffusionPipeline::DiffusionPipeline(const PipelineSpec& spec, PipelineComponents components)
    : spec_(&spec), components_(std::move(components)), settings_(spec.settings) {
  check_components(spec, components_);
  const auto scheduler = components_.find("scheduler");
  if (scheduler != components_.end() && scheduler->second.has_value())
    scheduler->second = adapted(spec, scheduler->second.get<Scheduler>());
}

DiffusionPipeline::~DiffusionPipeline() = default;

PipelineComponent& DiffusionPipeline::named_component(const std::string& name) {
  const auto found = components_.find(name);
  require<ConfigError>(found != components_.end(), "{} has no component \"{}\", it has: {}", class_name(),
                       name, fmt::join(component_names(components_), ", "));
  return found->second;
}

void DiffusionPipeline::refuse_cast(const std::type_info& type) const {
  fail<ConfigError>("the pipeline is a {}, expected a {}", class_name(), c10::demangle(type.name()));
}

void DiffusionPipeline::set_scheduler(const Scheduler& scheduler) {
  named_component("scheduler") = adapted(*spec_, scheduler);
}

DiffusionPipeline& DiffusionPipeline::to(at::Device device, std::optional<at::ScalarType> dtype) {
  if (dtype) to(*dtype);
  for (const auto& model : models_of(*spec_, components_)) move_model(*model, device, std::nullopt);
  return *this;
}

DiffusionPipeline& DiffusionPipeline::to(at::ScalarType dtype) {
  require<ConfigError>(at::isFloatingType(dtype), "{}: dtype is {}, expected a floating type", class_name(),
                       dtype_name(dtype));
  for (const auto& model : models_of(*spec_, components_)) move_model(*model, std::nullopt, dtype);
  return *this;
}

at::Device DiffusionPipeline::device() const {
  for (const auto& model : models_of(*spec_, components_))
    for (const Tensor& parameter : model->parameters())
      if (!parameter.device().is_cpu()) return parameter.device();
  return at::kCPU;
}

at::ScalarType DiffusionPipeline::dtype() const {
  for (const auto& model : models_of(*spec_, components_))
    for (const Tensor& parameter : model->parameters())
      if (at::isFloatingType(parameter.scalar_type())) return parameter.scalar_type();
  return at::kFloat;
}

void DiffusionPipeline::take_settings(const Folder& folder) { settings_ = folder.settings; }

PipelineComponents DiffusionPipeline::shared_components(const PipelineSpec& spec,
                                                        const DiffusionPipeline& pipeline,
                                                        PipelineComponents given) {
  for (const PipelineComponentSpec& expected : spec.components) {
    if (given.contains(expected.name)) continue;
    const auto found = pipeline.components().find(expected.name);
    if (found == pipeline.components().end() || !found->second.has_value()) {
      require<ConfigError>(expected.is_optional,
                           "{}::from_pipe: component \"{}\" is missing: a {} does not have it; pass it as "
                           "from_pipe(pipeline, {{{{\"{}\", ...}}}})",
                           spec.class_name, expected.name, pipeline.class_name(), expected.name);
      continue;
    }
    require<ConfigError>(is_accepted(expected, found->second),
                         "{}::from_pipe: component \"{}\" of the {} is a {}, expected a {}; pass another one "
                         "as from_pipe(pipeline, {{{{\"{}\", ...}}}})",
                         spec.class_name, expected.name, pipeline.class_name(), found->second.class_name(),
                         fmt::join(expected.class_names, " or "), expected.name);
    given.emplace(expected.name, found->second);
  }
  return given;
}

void DiffusionPipeline::copy_settings(const DiffusionPipeline& from, DiffusionPipeline& to) {
  for (auto& [name, value] : to.settings_)
    if (const auto found = from.settings_.find(name); found != from.settings_.end()) value = found->second;
}

}  // namespace diffusers
