#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/lora.h>
#include <diffusers/models/lora_weights.h>

#include <torch/nn/module.h>

#include "core/json.h"
#include "core/require.h"
#include "io/open_model_file.h"
#include "models/layers/lora_file.h"
#include "models/layers/lora_formats.h"
#include "models/layers/lora_keys.h"
#include "models/layers/lora_layer.h"
#include "models/layers/lora_metadata.h"
#include "models/layers/lora_targets.h"

namespace diffusers {
namespace {

/// Refuses a file of `torch.save`.
void refuse_lora_pickle(const std::string& folder, const std::string& name) {
  const bool is_pickle =
      name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth") || name.ends_with(".ckpt");
  const std::string path = join_path(folder, name);
  require<FileError>(
      !is_pickle,
      "{}: a Python pickle can run code and is not read; convert it with this command: python3 -c \"import "
      "torch; from safetensors.torch import save_file; save_file({{k: v.contiguous() for k, v in "
      "torch.load('{}', weights_only=True).items()}}, '{}.safetensors')\"",
      path, path, path.substr(0, path.rfind('.')));
}

/// The folder and the name of a file.
std::pair<std::string, std::string> lora_file_place(const std::filesystem::path& path,
                                                    const std::string& weight_name) {
  if (!folder_exists(path)) {
    require<FileError>(file_exists(path), "{}: there is no such file or folder", path.string());
    refuse_lora_pickle(parent_folder(path), base_name(path));
    return {parent_folder(path), base_name(path)};
  }
  if (!weight_name.empty()) {
    refuse_lora_pickle(path.string(), weight_name);
    return {path.string(), weight_name};
  }
  std::vector<std::string> names;
  const auto files = list_folder(path);
  for (const auto& name : files) {
    if (name == kLoraFileName) return {path.string(), name};
    if (name.ends_with(".safetensors")) names.push_back(name);
  }
  if (names.empty())
    for (const auto& name : files) refuse_lora_pickle(path.string(), name);
  require<FileError>(names.size() == 1,
                     "{}: expected {} or one other safetensors file, found {}; give weight_name",
                     path.string(), kLoraFileName, names.empty() ? "none" : fmt::format("{}", names));
  return {path.string(), names.front()};
}

/// Returns the most frequent value; of several, the one that comes first.
template <class Value>
Value most_frequent(const std::vector<Value>& values) {
  Value best = values.front();
  std::ptrdiff_t best_count = 0;
  for (const auto& value : values) {
    const auto count = std::count(values.begin(), values.end(), value);
    if (count > best_count) {
      best_count = count;
      best = value;
    }
  }
  return best;
}

/// Makes the config of a file without metadata, as diffusers' `get_peft_kwargs`.
LoraConfig inferred_config(const LoraFileModel& model) {
  LoraConfig config;
  std::vector<int64_t> ranks;
  std::vector<double> alphas;
  std::vector<std::string> paths;
  for (const auto& [path, layer] : model.layers) {
    paths.push_back(path);
    ranks.push_back(layer.lora_A.size(0));
    if (layer.alpha) alphas.push_back(*layer.alpha);
    config.use_dora = config.use_dora || layer.magnitude.defined();
  }
  config.target_modules = std::move(paths);
  config.r = most_frequent(ranks);
  config.lora_alpha = alphas.empty() ? static_cast<double>(config.r) : most_frequent(alphas);
  for (const auto& [path, layer] : model.layers) {
    const auto rank = layer.lora_A.size(0);
    if (rank != config.r) config.rank_pattern.emplace_back("^" + path, rank);
    // Without any alpha, the scale of each layer is 1.
    const double usual = alphas.empty() ? static_cast<double>(rank) : static_cast<double>(config.lora_alpha);
    const double alpha = layer.alpha.value_or(usual);
    if (alpha != static_cast<double>(config.lora_alpha)) config.alpha_pattern.emplace_back("^" + path, alpha);
  }
  return config;
}

/// Returns a tensor in the shape that the layer expects. Files have matrices for 1x1 convolutions and the
/// reverse.
Tensor fitted(const Tensor& tensor, const std::vector<int64_t>& shape, const std::string& where) {
  auto plain = tensor.sizes().vec();
  auto expected = shape;
  while (plain.size() > 2 && plain.back() == 1) plain.pop_back();
  while (expected.size() > 2 && expected.back() == 1) expected.pop_back();
  require<FileError>(plain == expected, "{} has shape {}, expected {}", where, shape_string(tensor.sizes()),
                     shape_string(shape));
  return tensor.reshape(shape);
}

/// An adapter from a file, and the module that receives it.
struct LoraAddition {
  const char* prefix = "";
  torch::nn::Module* module = nullptr;
  LoraConfig config;
  std::vector<std::string> paths;
  TensorMap tensors;
};

LoraAddition addition_of(const LoraFileModel& model, const std::string& where, const Json* metadata) {
  for (const auto& [path, layer] : model.layers) {
    require<FileError>(layer.lora_A.defined() && layer.lora_B.defined(), "{}: {}.{} has no {}", where,
                       model.prefix, path, layer.lora_A.defined() ? "lora_B" : "lora_A");
    require<FileError>(
        layer.lora_A.dim() >= 2 && layer.lora_B.dim() >= 2 && layer.lora_A.size(0) == layer.lora_B.size(1),
        "{}: {}.{}: lora_A {} and lora_B {} have different ranks", where, model.prefix, path,
        shape_string(layer.lora_A.sizes()), shape_string(layer.lora_B.sizes()));
  }
  LoraAddition addition;
  addition.prefix = model.prefix;
  addition.module = model.module.get();
  if (metadata == nullptr || !read_lora_metadata(*metadata, model.prefix, where, addition.config))
    addition.config = inferred_config(model);
  for (const auto& item : model.layers) addition.paths.push_back(item.first);
  if (addition.config.target_modules.empty()) addition.config.target_modules = addition.paths;
  addition.config = checked_lora_config(addition.config);

  for (const auto& target : lora_targets_at(*model.module, addition.config, addition.paths)) {
    const auto& layer = model.layers.at(target.path);
    const auto name = fmt::format("{}: {}.{}", where, model.prefix, target.path);
    auto shape_a = target.weight.sizes().vec();
    shape_a[0] = target.r;
    std::vector<int64_t> shape_b = {target.weight.size(0), target.r};
    shape_b.resize(shape_a.size(), 1);
    addition.tensors.insert(target.path + ".lora_A.weight",
                            fitted(layer.lora_A, shape_a, name + ".lora_A.weight"));
    addition.tensors.insert(target.path + ".lora_B.weight",
                            fitted(layer.lora_B, shape_b, name + ".lora_B.weight"));
    require<FileError>(layer.magnitude.defined() == addition.config.use_dora,
                       "{} has {} lora_magnitude_vector, but use_dora is {}", name,
                       layer.magnitude.defined() ? "a" : "no", addition.config.use_dora);
    if (!addition.config.use_dora) continue;
    require<FileError>(layer.magnitude.numel() == target.weight.size(0),
                       "{}.lora_magnitude_vector has shape {}, expected {} numbers", name,
                       shape_string(layer.magnitude.sizes()), target.weight.size(0));
    addition.tensors.insert(target.path + ".lora_magnitude_vector", layer.magnitude.flatten());
  }
  return addition;
}

std::string new_adapter_name(const std::vector<LoraFileModel>& models) {
  std::set<std::string> used;
  std::size_t count = 0;
  for (const auto& model : models) {
    if (!model.module) continue;
    const auto names = detail::lora_names(*model.module);
    used.insert(names.begin(), names.end());
    count = std::max(count, names.size());
  }
  while (used.count(fmt::format("default_{}", count)) != 0) ++count;
  return fmt::format("default_{}", count);
}

/// The configs of a file: `lora_adapter_metadata`, or PEFT's adapter_config.json for the only component.
std::optional<Json> lora_configs(const SafetensorsFile& file, const std::string& folder,
                                 const std::vector<LoraFileModel>& models) {
  if (const auto found = file.metadata().find(kLoraMetadata); found != file.metadata().end())
    return parse_json(found->second, file.path() + ": " + kLoraMetadata);
  const std::string path = join_path(folder, kPeftConfigName);
  if (base_name(file.path()) != kPeftFileName || !file_exists(path)) return std::nullopt;
  const Json config = parse_json(read_model_file(folder, kPeftConfigName), path);
  require<FileError>(config.is_object(), "{} is {}, expected an object", path, json_excerpt(config));
  Json prefixed = Json::object();
  for (const auto& model : models)
    if (!model.layers.empty())
      for (const auto& item : config.items())
        prefixed[fmt::format("{}.{}", model.prefix, item.key())] = item.value();
  return prefixed;
}

std::vector<LoraFileModel> lora_components_of(const LoraModules& modules) {
  return {{"unet", modules.unet.module()},
          {"text_encoder", modules.text_encoder.module()},
          {"text_encoder_2", modules.text_encoder_2.module()}};
}

/// Reads the adapters of a file, one for each model that it mentions.
std::vector<LoraAddition> read_additions(const std::filesystem::path& path, const std::string& weight_name,
                                         std::vector<LoraFileModel>& models) {
  const auto place = lora_file_place(path, weight_name);
  const SafetensorsFile file(open_model_file(place.first, place.second));
  // PEFT's names do not tell the component; the folders of `save_lora_weights` do.
  const auto folder = base_name(place.first);
  if (place.second == kPeftFileName &&
      std::any_of(models.begin(), models.end(), [&](const auto& model) { return folder == model.prefix; }))
    for (auto& model : models)
      if (folder != model.prefix) model.module = nullptr;
  read_lora_layers(file, models);
  const auto metadata = lora_configs(file, place.first, models);
  std::vector<LoraAddition> additions;
  for (const auto& model : models)
    if (!model.layers.empty())
      additions.push_back(addition_of(model, file.path(), metadata ? &*metadata : nullptr));
  require<FileError>(!additions.empty(), "{}: the file has no LoRA tensors", file.path());
  return additions;
}

bool is_xl(const LoraModule& unet, const LoraModule& text_encoder_2) {
  return text_encoder_2.module() != nullptr || (unet.module() != nullptr && is_xl_unet(*unet.module()));
}

}  // namespace

void save_lora_weights(const std::filesystem::path& folder, const SaveLoraWeightsOptions& options) {
  require_plain_basename(options.weight_name, "weight_name");
  write_lora_parts(lora_parts(options), folder, options.format, options.weight_name,
                   is_xl(options.unet, options.text_encoder_2));
}

std::string load_lora_weights(const std::filesystem::path& path, const LoraModules& modules,
                              const LoadLoraWeightsOptions& options) {
  std::vector<LoraFileModel> models = lora_components_of(modules);
  const auto additions = read_additions(path, options.weight_name, models);
  std::string name = options.adapter_name.empty() ? new_adapter_name(models) : options.adapter_name;
  for (const auto& addition : additions) detail::lora_check_addition(*addition.module, name);
  const layers::SkipInitGuard skip_init;
  for (const auto& addition : additions) {
    detail::lora_add_at(*addition.module, addition.config, name, addition.paths);
    set_peft_model_state_dict(*addition.module, addition.tensors, name);
  }
  return name;
}

void convert_lora_weights(const std::filesystem::path& path, const std::filesystem::path& folder,
                          const LoraModules& modules, const ConvertLoraWeightsOptions& options) {
  require_plain_basename(options.output_name, "output_name");
  std::vector<LoraFileModel> models = lora_components_of(modules);
  std::vector<LoraPart> parts;
  for (auto& addition : read_additions(path, options.weight_name, models))
    parts.push_back(
        make_lora_part(addition.prefix, *addition.module, addition.config, std::move(addition.tensors)));
  write_lora_parts(parts, folder, options.format, options.output_name,
                   is_xl(modules.unet, modules.text_encoder_2));
}

}  // namespace diffusers
