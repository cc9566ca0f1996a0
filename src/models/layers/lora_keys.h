#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/io/safetensors.h>

#include <torch/nn/module.h>

namespace diffusers {
inline namespace internal {

/// The tensors of one layer in a LoRA file.
struct LoraFileLayer {
  Tensor lora_A, lora_B, magnitude;
  std::optional<double> alpha;
};

/// A model, the prefix of its tensors, and what a file has for it.
struct LoraFileModel {
  const char* prefix = "";  ///< "unet", "text_encoder" or "text_encoder_2"
  std::shared_ptr<torch::nn::Module> module;
  std::map<std::string, LoraFileLayer> layers = {};  ///< by the layers' paths in the model
};

/// Reads the tensors of a file into the layers of models, whatever naming the file uses.
/// @param models all components that a file can have; module is null for those that there are not
/// @throws FileError naming the tensors that belong to no layer, and formats that are not supported
void read_lora_layers(const SafetensorsFile& file, std::vector<LoraFileModel>& models);

/// Returns the name of a UNet's layer in the code of Stable Diffusion (`input_blocks.1.1...`).
/// @param path such as "down_blocks.0.attentions.0.proj_in"
/// @param layers_per_block residual blocks of each down block
/// @param has_attention true if the up block of the layer has attention
std::string original_unet_path(const std::string& path, int64_t layers_per_block, bool has_attention);

}  // namespace internal
}  // namespace diffusers
