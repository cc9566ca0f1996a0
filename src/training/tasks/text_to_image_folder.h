#pragma once

// The parts of TextToImageModels::save_pretrained, for a training that writes the other parts itself.

#include <filesystem>
#include <string>

#include <diffusers/training/text_to_image_models.h>

namespace diffusers {
inline namespace internal {

/// Writes `text_encoder/` and, for Stable Diffusion XL, `text_encoder_2/`.
void save_text_encoders(const TextToImageModels& models, const std::filesystem::path& folder);

/// Writes what a text-to-image training does not change: `vae/`, the tokenizers, `scheduler/`, and
/// model_index.json last.
/// @param class_name pipeline class; empty: that of text to image or inpainting
void save_beside_text_to_image(const TextToImageModels& models, const std::filesystem::path& folder,
                               const std::string& class_name = {});

}  // namespace internal
}  // namespace diffusers
