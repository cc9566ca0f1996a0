#pragma once

// Writes adapters in the layouts of diffusers, PEFT and kohya-ss.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <diffusers/core/tensor_map.h>
#include <diffusers/models/lora.h>
#include <diffusers/models/lora_weights.h>

namespace diffusers {
inline namespace internal {

/// The adapter of one component.
struct LoraPart {
  std::string prefix;      ///< "unet", "text_encoder" or "text_encoder_2"
  LoraConfig config = {};  ///< as `add_adapter` took it
  TensorMap tensors = {};  ///< by their names in `get_peft_model_state_dict`
  std::map<std::string, double> alphas =
      {};  ///< factor of the update times the rank, by the path of the layer
};

/// Makes the part of an adapter.
/// @param module the model whose layers the adapter belongs to
LoraPart make_lora_part(const std::string& prefix, const torch::nn::Module& module, const LoraConfig& config,
                        TensorMap tensors);

/// Writes adapters.
/// @param is_xl names the first text encoder as kohya-ss does for Stable Diffusion XL
/// @throws ConfigError if the format cannot hold an adapter; FileError if a file cannot be written
void write_lora_parts(const std::vector<LoraPart>& parts, const std::filesystem::path& folder,
                      LoraFormat format, const std::string& weight_name, bool is_xl);

/// Returns true for the UNet of Stable Diffusion XL, which has embeddings of the size.
bool is_xl_unet(const torch::nn::Module& module);

}  // namespace internal
}  // namespace diffusers
