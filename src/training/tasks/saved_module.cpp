#include <string>
#include <utility>

#include <diffusers/core/tensor_map.h>
#include <diffusers/io/model_file.h>
#include <diffusers/training/saved_module.h>
#include <diffusers/training/trainable_denoiser.h>

#include <ATen/ATen.h>

#include "core/host_copy.h"
#include "core/json.h"
#include "core/require.h"
#include "io/posix_file.h"
#include "io/save_model_files.h"
#include "models/unet/row_parts.h"

namespace diffusers {

void SavedModule::enable_gradient_checkpointing() {
  fail<ConfigError>("gradient_checkpointing is true, but {} has no enable_gradient_checkpointing()",
                    module().name());
}

namespace detail {
namespace {

TensorMap tensors_of_module(const torch::nn::Module& module) {
  TensorMap tensors(module.named_parameters());
  for (const auto& buffer : module.named_buffers()) tensors.insert(buffer.key(), buffer.value());
  return tensors;
}

/// Returns a config with the module's name, for a module without a config.
std::string config_with_name(const torch::nn::Module& module) {
  return dump_json({{"_class_name", module.name()}});
}

}  // namespace

void save_module(const torch::nn::Module& module, const std::filesystem::path& folder) {
  save_model_files(tensors_of_module(module), folder.string(), config_with_name(module),
                   SavedLayout{}.basename);
}

bool is_model_of_library(const torch::nn::Module& model) { return is_thread_safe_model(model); }

void load_module(torch::nn::Module& module, const std::filesystem::path& folder, const SavedLayout& layout) {
  const at::NoGradGuard no_grad;
  const TensorMap saved = load_weights(folder.string(), layout.basename);
  const std::string where = folder.string();
  const auto take = [&](const std::string& name, const Tensor& tensor, bool must_exist) {
    const std::string key = layout.name_in_file != nullptr ? layout.name_in_file(name) : name;
    if (!must_exist && !saved.contains(key)) return;
    require<FileError>(saved.contains(key), "{} lacks the parameter \"{}\"", escaped(where), key);
    const Tensor& value = saved.at(key);
    require<FileError>(value.sizes() == tensor.sizes() && value.scalar_type() == tensor.scalar_type(),
                       "\"{}\" in {} is {}, the model has {}", key, escaped(where), describe(value),
                       describe(tensor));
    require<FileError>(!at::isFloatingType(value.scalar_type()) || value.isfinite().all().item<bool>(),
                       "\"{}\" in {} holds values that are not finite", key, escaped(where));
    tensor.copy_(value);
  };
  for (const auto& parameter : module.named_parameters()) take(parameter.key(), parameter.value(), true);
  // A buffer that the model computes itself may be missing in its files.
  for (const auto& buffer : module.named_buffers()) take(buffer.key(), buffer.value(), false);
}

SnapshotWriter module_snapshot(const torch::nn::Module& module, std::string config_json, SavedLayout layout) {
  if (config_json.empty()) config_json = config_with_name(module);
  TensorMap tensors;
  for (const auto& [name, tensor] : host_copy(tensors_of_module(module)))
    tensors.insert(layout.name_in_file != nullptr ? layout.name_in_file(name) : name, tensor);
  return [tensors = std::move(tensors), config_json = std::move(config_json),
          basename = std::move(layout.basename)](const std::filesystem::path& folder) {
    save_model_files(tensors, folder.string(), config_json, basename);
  };
}

}  // namespace detail
}  // namespace diffusers
