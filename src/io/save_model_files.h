#pragma once

// Saves the files of a model folder together.

#include <string>

#include <diffusers/io/model_file.h>

namespace diffusers {
inline namespace internal {

/// Writes the weights and `config.json` of a model. If an older save has another config, both are replaced at
/// once, if the file system can exchange two folders. Files that do not belong to a save are kept.
void save_model_files(const TensorMap& tensors, const std::string& folder, const std::string& config_json,
                      const std::string& basename = "diffusion_pytorch_model",
                      const SaveWeightsOptions& options = {});

}  // namespace internal
}  // namespace diffusers
