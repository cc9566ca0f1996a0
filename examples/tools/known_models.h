#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

/// The tensors that a model of the library expects in its weights file.
struct ModelPlan {
  std::string basename = "diffusion_pytorch_model";    ///< base name of the weights file
  std::map<std::string, std::vector<int64_t>> shapes;  ///< shapes of the tensors of the state dict
  std::map<std::string, std::string> renamed;          ///< maps names in old files to names in the model
  std::string (*name_in_model)(const std::string&) =
      nullptr;  ///< converts names of files with other names; "" is ignored
  int64_t num_parameters = 0;
};

bool is_known_model(const std::string& class_name);

/// Returns the plan of a class of the library; nullopt for any other class. It allocates address space for
/// the weights but does not use the memory.
/// @param json text of config.json
/// @throws diffusers::Error if no model can be made from it
std::optional<ModelPlan> plan_model(const std::string& class_name, const std::string& json);
