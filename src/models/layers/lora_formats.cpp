#include "models/layers/lora_formats.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include "core/json.h"
#include "core/require.h"
#include "models/layers/lora_file.h"
#include "models/layers/lora_metadata.h"
#include "models/layers/lora_targets.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::string_view kDownSuffix = ".lora_A.weight";
constexpr std::string_view kUpSuffix = ".lora_B.weight";

/// The start of the names of a component in kohya-ss files.
std::string kohya_prefix(const std::string& prefix, bool is_xl) {
  if (prefix == "unet") return "lora_unet_";
  if (prefix == "text_encoder_2") return "lora_te2_";
  return is_xl ? "lora_te1_" : "lora_te_";
}

/// A number as a tensor, float32 if that is exact.
Tensor alpha_tensor(double alpha) {
  const bool is_float = static_cast<double>(static_cast<float>(alpha)) == alpha;
  return at::scalar_tensor(alpha, is_float ? at::kFloat : at::kDouble);
}

void write_kohya(const std::vector<LoraPart>& parts, const std::filesystem::path& file, bool is_xl) {
  TensorMap tensors;
  for (const auto& part : parts) {
    require<ConfigError>(
        !part.config.use_dora,
        "{} has a DoRA adapter, which the layout of kohya-ss cannot hold; expected the format "
        "\"diffusers\" or \"peft\"",
        part.prefix);
    const auto layer_name = [&](const std::string& path) {
      std::string name =
          part.prefix == "unet" || path.starts_with("text_model.") ? path : "text_model." + path;
      std::replace(name.begin(), name.end(), '.', '_');
      return kohya_prefix(part.prefix, is_xl) + name;
    };
    for (const auto& [key, tensor] : part.tensors) {
      const bool is_down = key.ends_with(kDownSuffix);
      const std::string path = key.substr(0, key.size() - (is_down ? kDownSuffix : kUpSuffix).size());
      tensors.insert(layer_name(path) + (is_down ? ".lora_down.weight" : ".lora_up.weight"),
                     tensor.contiguous());
      if (is_down) tensors.insert(layer_name(path) + ".alpha", alpha_tensor(part.alphas.at(path)));
    }
  }
  save_safetensors(tensors, file, {{"format", "pt"}});
}

/// The fields of adapter_config.json.
Json peft_config_json(const LoraConfig& config) {
  Json prefixed = Json::object();
  write_lora_metadata(prefixed, "", config);
  Json json = {{"task_type", nullptr},
               {"base_model_name_or_path", nullptr},
               {"inference_mode", true},
               {"fan_in_fan_out", false},
               {"modules_to_save", nullptr}};
  for (const auto& item : prefixed.items()) json[item.key().substr(1)] = item.value();
  return json;
}

void write_peft(const std::vector<LoraPart>& parts, const std::filesystem::path& folder) {
  for (const auto& part : parts) {
    TensorMap tensors;
    for (const auto& [key, tensor] : part.tensors)
      tensors.insert("base_model.model." + key, tensor.contiguous());
    const auto inner = folder / part.prefix;
    create_folders(inner);
    save_safetensors(tensors, inner / kPeftFileName, {{"format", "pt"}});
    write_file(dump_json(peft_config_json(part.config)), inner / kPeftConfigName);
  }
}

}  // namespace

LoraPart make_lora_part(const std::string& prefix, const torch::nn::Module& module, const LoraConfig& config,
                        TensorMap tensors) {
  LoraPart part{.prefix = prefix, .config = config, .tensors = std::move(tensors)};
  std::vector<std::string> paths;
  for (const auto& item : part.tensors)
    if (item.first.ends_with(kDownSuffix))
      paths.push_back(item.first.substr(0, item.first.size() - kDownSuffix.size()));
  for (const auto& target : lora_targets_at(module, config, paths))
    part.alphas[target.path] =
        config.use_rslora ? target.alpha * std::sqrt(static_cast<double>(target.r)) : target.alpha;
  return part;
}

void write_lora_parts(const std::vector<LoraPart>& parts, const std::filesystem::path& folder,
                      LoraFormat format, const std::string& weight_name, bool is_xl) {
  create_folders(folder);
  switch (format) {
    case LoraFormat::kDiffusers:
      write_lora_file(joined_parts(parts), folder, weight_name);
      return;
    case LoraFormat::kPeft:
      write_peft(parts, folder);
      return;
    case LoraFormat::kKohya:
      write_kohya(parts, folder / weight_name, is_xl);
      return;
  }
}

bool is_xl_unet(const torch::nn::Module& module) {
  const auto children = module.named_children();
  return children.contains("add_embedding");
}

}  // namespace internal
}  // namespace diffusers
