#include <string>
#include <utility>

#include <diffusers/core/tensor_map.h>
#include <diffusers/training/trainable_model.h>

#include <ATen/core/Tensor.h>

#include "core/host_copy.h"
#include "core/json.h"
#include "io/save_model_files.h"

namespace diffusers::training_detail {
namespace {

TensorMap state_of(const torch::nn::Module& module) {
  TensorMap tensors(module.named_parameters());
  for (const auto& buffer : module.named_buffers()) tensors.insert(buffer.key(), buffer.value());
  return tensors;
}

/// The config of a model that has none.
std::string plain_config(const torch::nn::Module& module) {
  return dump_json({{"_class_name", module.name()}});
}

void write_model(const TensorMap& tensors, const std::string& config_json, const std::string& folder,
                 const std::string& basename) {
  save_model_files(tensors, folder, config_json, basename);
}

}  // namespace

bool config_has_class_embedding(const std::string& config_json) {
  const Json config = parse_json(config_json, "config_json() of the model");
  const auto is_given = [&](const char* key) { return config.contains(key) && !config.at(key).is_null(); };
  return is_given("class_embed_type") || is_given("num_class_embeds");
}

bool config_mentions_class_embedding(const std::string& config_json) {
  const Json config = parse_json(config_json, "config_json() of the model");
  return config.contains("class_embed_type") || config.contains("num_class_embeds");
}

void save_module(const torch::nn::Module& module, const std::string& folder) {
  write_model(state_of(module), plain_config(module), folder, "diffusion_pytorch_model");
}

SnapshotWriter module_snapshot(const torch::nn::Module& module) {
  return module_snapshot(module, plain_config(module), "diffusion_pytorch_model", nullptr);
}

SnapshotWriter module_snapshot(const torch::nn::Module& module, std::string config_json, std::string basename,
                               std::string (*name_in_file)(const std::string&)) {
  TensorMap tensors;
  for (const auto& [name, tensor] : host_copy(state_of(module)))
    tensors.insert(name_in_file != nullptr ? name_in_file(name) : name, tensor);
  return [tensors = std::move(tensors), config_json = std::move(config_json), basename = std::move(basename)](
             const std::string& folder) { write_model(tensors, config_json, folder, basename); };
}

}  // namespace diffusers::training_detail
