#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/core/tensor_map.h>
#include <diffusers/models/lora_weights.h>

#include "models/layers/lora_formats.h"

namespace diffusers {
inline namespace internal {

/// Name of the file that `save_lora_weights` writes.
inline constexpr const char* kLoraFileName = "pytorch_lora_weights.safetensors";
/// Names of the files that PEFT's `save_pretrained` writes.
inline constexpr const char* kPeftFileName = "adapter_model.safetensors";
inline constexpr const char* kPeftConfigName = "adapter_config.json";
/// Key of the configs in its metadata.
inline constexpr const char* kLoraMetadata = "lora_adapter_metadata";

/// The content of a LoRA file.
struct LoraFile {
  TensorMap tensors;     ///< by their names in the file; they share memory with the models
  std::string metadata;  ///< value of `lora_adapter_metadata`
};

/// Returns the parts of the models of `save_lora_weights`. The tensors share memory with the models.
/// @throws ConfigError as `save_lora_weights`
std::vector<LoraPart> lora_parts(const SaveLoraWeightsOptions& options);
/// Joins the parts as diffusers does.
LoraFile joined_parts(const std::vector<LoraPart>& parts);
/// Returns what `save_lora_weights` writes in the format of diffusers.
/// @throws ConfigError as `save_lora_weights`
LoraFile lora_file(const SaveLoraWeightsOptions& options);
/// Writes a file.
/// @param folder is created if it does not exist
void write_lora_file(const LoraFile& file, const std::filesystem::path& folder, const std::string& name);

}  // namespace internal
}  // namespace diffusers
