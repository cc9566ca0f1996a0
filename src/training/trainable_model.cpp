#include <string>

#include <diffusers/core/tensor_map.h>
#include <diffusers/io/checkpoint.h>
#include <diffusers/io/files.h>
#include <diffusers/training/trainable_model.h>

#include "core/json.h"

namespace diffusers::training_detail {

bool config_has_class_embedding(const std::string& config_json) {
  const Json config = parse_json(config_json, "config_json() of the model");
  const auto is_given = [&](const char* key) { return config.contains(key) && !config.at(key).is_null(); };
  return is_given("class_embed_type") || is_given("num_class_embeds");
}

void save_module(const torch::nn::Module& module, const std::string& folder) {
  TensorMap tensors(module.named_parameters());
  for (const auto& buffer : module.named_buffers()) tensors.insert(buffer.key(), buffer.value());
  create_folders(folder);
  write_file_atomically(join_path(folder, "config.json"), dump_json({{"_class_name", module.name()}}));
  save_weights(tensors, folder);
}

}  // namespace diffusers::training_detail
