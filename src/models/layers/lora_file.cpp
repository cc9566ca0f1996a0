#include "models/layers/lora_file.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/lora.h>

#include <torch/nn/module.h>

#include "core/json.h"
#include "core/require.h"
#include "models/layers/lora_metadata.h"

namespace diffusers {
inline namespace internal {
namespace {

std::string adapter_to_save(const torch::nn::Module& module, const char* prefix, const std::string& wanted) {
  const auto names = detail::lora_names(module);
  require<ConfigError>(!names.empty(), "save_lora_weights: {} has no adapter, call add_adapter first",
                       prefix);
  if (wanted.empty() && names.size() == 1) return names.front();
  const auto& name = wanted.empty() ? std::string("default") : wanted;
  require<ConfigError>(std::find(names.begin(), names.end(), name) != names.end(),
                       "save_lora_weights: {} has no adapter \"{}\"; adapters: {}", prefix, name, names);
  return name;
}

}  // namespace

std::vector<LoraPart> lora_parts(const SaveLoraWeightsOptions& options) {
  std::vector<LoraPart> parts;
  for (const auto& [prefix, model] :
       {std::pair("unet", &options.unet), std::pair("text_encoder", &options.text_encoder),
        std::pair("text_encoder_2", &options.text_encoder_2)}) {
    if (!model->module()) continue;
    const auto& module = *model->module();
    const auto name = adapter_to_save(module, prefix, options.adapter_name);
    parts.push_back(make_lora_part(prefix, module, detail::lora_config(module, name),
                                   get_peft_model_state_dict(module, name)));
  }
  require<ConfigError>(!parts.empty(), "save_lora_weights: no model was given, set .unet or .text_encoder");
  return parts;
}

LoraFile joined_parts(const std::vector<LoraPart>& parts) {
  LoraFile file;
  Json metadata = Json::object();
  for (const auto& part : parts) {
    for (const auto& [key, tensor] : part.tensors)
      file.tensors.insert(fmt::format("{}.{}", part.prefix, key), tensor.contiguous());
    write_lora_metadata(metadata, part.prefix, part.config);
  }
  file.metadata = dump_json(metadata);
  while (file.metadata.ends_with('\n')) file.metadata.pop_back();
  return file;
}

LoraFile lora_file(const SaveLoraWeightsOptions& options) { return joined_parts(lora_parts(options)); }

void write_lora_file(const LoraFile& file, const std::filesystem::path& folder, const std::string& name) {
  create_folders(folder);
  save_safetensors(file.tensors, folder / name, {{"format", "pt"}, {kLoraMetadata, file.metadata}});
}

}  // namespace internal
}  // namespace diffusers
