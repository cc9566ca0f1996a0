#pragma once

// The files of a model folder, saved together.

#include <string>

#include <diffusers/io/model_file.h>

namespace diffusers {
inline namespace internal {

/// Writes the weights and `config.json` of a model. Over an older save with another config both change at
/// once, where the file system can exchange two folders; files that are not of a save stay.
void save_model_files(const TensorMap& tensors, const std::string& folder, const std::string& config_json,
                      const std::string& basename = "diffusion_pytorch_model",
                      const SaveWeightsOptions& options = {});

}  // namespace internal
}  // namespace diffusers
