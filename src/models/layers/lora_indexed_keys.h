#pragma once

// The LoRA files of cloneofsimo's `lora_diffusion`: the layers have numbers instead of names.

#include <vector>

#include "models/layers/lora_keys.h"

namespace diffusers {
inline namespace internal {

/// Returns true if a file has tensors such as "unet:0:down".
bool has_indexed_layers(const SafetensorsFile& file);

/// Reads the tensors of such a file into the layers of models. The numbers count the layers of the classes
/// that the metadata names ("CrossAttention", "Attention", "GEGLU", "ResnetBlock2D", "CLIPAttention"), in the
/// order of the model.
/// @param models as for `read_lora_layers`
/// @throws FileError naming the tensors that are unknown or do not fit, or a class that is not supported
void read_indexed_layers(const SafetensorsFile& file, std::vector<LoraFileModel>& models);

}  // namespace internal
}  // namespace diffusers
