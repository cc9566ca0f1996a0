#include <algorithm>

#include <diffusers/models/lora.h>
#include <diffusers/pipelines/lora_loader.h>

#include <torch/nn/module.h>

#include "core/require.h"

namespace diffusers {
namespace {

/// A model with at least one adapter.
struct LoraComponent {
  const char* name;
  torch::nn::Module* module;
  std::vector<std::string> adapters;

  bool has(const std::string& adapter) const {
    return std::find(adapters.begin(), adapters.end(), adapter) != adapters.end();
  }
};

std::vector<LoraComponent> lora_components(const LoraModules& modules) {
  std::vector<LoraComponent> components;
  for (const auto& [name, model] :
       {std::pair("unet", &modules.unet), std::pair("text_encoder", &modules.text_encoder),
        std::pair("text_encoder_2", &modules.text_encoder_2)}) {
    if (!model->module()) continue;
    auto adapters = detail::lora_names(*model->module());
    if (!adapters.empty()) components.push_back({name, model->module().get(), std::move(adapters)});
  }
  return components;
}

void require_known_adapters(const std::vector<LoraComponent>& components,
                            const std::vector<std::string>& names, const char* function) {
  require<ConfigError>(!components.empty(), "{}: the pipeline has no adapter, call load_lora_weights first",
                       function);
  for (const auto& name : names) {
    std::vector<std::string> known;
    for (const auto& component : components)
      for (const auto& adapter : component.adapters)
        if (std::find(known.begin(), known.end(), adapter) == known.end()) known.push_back(adapter);
    require<ConfigError>(std::find(known.begin(), known.end(), name) != known.end(),
                         "{}: there is no adapter \"{}\"; adapters: {}", function, name, known);
  }
}

std::vector<std::string> names_in(const LoraComponent& component, const std::vector<std::string>& names) {
  std::vector<std::string> found;
  std::copy_if(names.begin(), names.end(), std::back_inserter(found),
               [&](const std::string& name) { return component.has(name); });
  return found;
}

}  // namespace

std::string LoraLoader::load_lora_weights(const std::filesystem::path& path,
                                          const LoadLoraWeightsOptions& options) {
  return diffusers::load_lora_weights(path, lora_modules(), options);
}

void LoraLoader::unload_lora_weights() {
  for (const auto& component : lora_components(lora_modules())) detail::lora_unload(*component.module);
}

void LoraLoader::set_adapters(const std::vector<std::string>& adapter_names,
                              const std::vector<double>& adapter_weights) {
  const auto components = lora_components(lora_modules());
  require_known_adapters(components, adapter_names, "set_adapters");
  require<ConfigError>(adapter_weights.empty() || adapter_weights.size() == adapter_names.size(),
                       "set_adapters: {} names and {} weights, expected one weight for each name",
                       adapter_names.size(), adapter_weights.size());
  for (const auto& component : components) {
    std::vector<std::string> names;
    std::vector<double> weights;
    for (std::size_t i = 0; i < adapter_names.size(); ++i) {
      if (!component.has(adapter_names[i])) continue;
      names.push_back(adapter_names[i]);
      weights.push_back(adapter_weights.empty() ? 1.0 : adapter_weights[i]);
    }
    detail::lora_set(*component.module, names, weights);
  }
}

void LoraLoader::fuse_lora(const FuseLoraOptions& options) {
  const auto components = lora_components(lora_modules());
  require_known_adapters(components, options.adapter_names, "fuse_lora");
  for (const auto& name : options.components)
    require<ConfigError>(name == "unet" || name == "text_encoder" || name == "text_encoder_2",
                         "fuse_lora: there is no component \"{}\" with adapters; expected unet, text_encoder "
                         "or text_encoder_2",
                         name);
  std::vector<torch::nn::Module*> fused;
  for (const auto& component : components) {
    const auto& wanted = options.components;
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), component.name) == wanted.end()) continue;
    const auto names = names_in(component, options.adapter_names);
    if (options.adapter_names.empty() ? detail::lora_active(*component.module).empty() : names.empty())
      continue;
    try {
      detail::lora_fuse(*component.module, options.lora_scale, options.safe_fusing, names);
    } catch (...) {
      for (auto* module : fused) detail::lora_unfuse(*module);
      throw;
    }
    fused.push_back(component.module);
  }
  require<ConfigError>(!fused.empty(), "fuse_lora: no chosen model has an active adapter");
}

void LoraLoader::unfuse_lora() {
  bool found = false;
  for (const auto& component : lora_components(lora_modules())) {
    if (!detail::lora_is_fused(*component.module)) continue;
    detail::lora_unfuse(*component.module);
    found = true;
  }
  require<ConfigError>(found, "unfuse_lora: no adapter is fused");
}

void LoraLoader::disable_lora() {
  const auto components = lora_components(lora_modules());
  require_known_adapters(components, {}, "disable_lora");
  for (const auto& component : components) detail::lora_enable(*component.module, false);
}

void LoraLoader::enable_lora() {
  const auto components = lora_components(lora_modules());
  require_known_adapters(components, {}, "enable_lora");
  for (const auto& component : components) detail::lora_enable(*component.module, true);
}

void LoraLoader::delete_adapters(const std::vector<std::string>& adapter_names) {
  const auto components = lora_components(lora_modules());
  require_known_adapters(components, adapter_names, "delete_adapters");
  for (const auto& component : components)
    if (const auto names = names_in(component, adapter_names); !names.empty())
      detail::lora_delete(*component.module, names);
}

std::vector<std::string> LoraLoader::get_active_adapters() {
  std::vector<std::string> names;
  for (const auto& component : lora_components(lora_modules()))
    for (const auto& name : detail::lora_active(*component.module))
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  return names;
}

std::map<std::string, std::vector<std::string>> LoraLoader::get_list_adapters() {
  std::map<std::string, std::vector<std::string>> adapters;
  for (auto& component : lora_components(lora_modules()))
    adapters.emplace(component.name, std::move(component.adapters));
  return adapters;
}

}  // namespace diffusers
