#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

/// What a model of the library looks for in its weights file.
struct ModelPlan {
  std::string basename = "diffusion_pytorch_model";    ///< of the weights file
  std::map<std::string, std::vector<int64_t>> shapes;  ///< of each tensor of the state dict
  std::map<std::string, std::string> renamed;          ///< names in old files -> names in the model
  std::string (*name_in_model)(const std::string&) =
      nullptr;  ///< for files with names of their own; "" is ignored
  int64_t num_parameters = 0;
};

bool is_known_model(const std::string& class_name);

/// The plan of a class that the library has; nullopt for another one. Costs address space, but neither memory
/// nor time for the weights.
/// @param json the text of config.json
/// @throws diffusers::Error if no model can be made from it
std::optional<ModelPlan> plan_model(const std::string& class_name, const std::string& json);
