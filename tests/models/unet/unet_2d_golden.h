#pragma once

// The cases of tests/reference/models.py.

#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/models/unet_2d.h>

#include <torch/types.h>

#include "models/model_golden.h"

namespace diffusers::test {

inline const Golden& unet_2d_golden() {
  static const Golden golden = load_golden("unet_2d.safetensors");
  return golden;
}

inline const Json& unet_2d_cases() {
  static const Json json = parse_json(read_text_file(golden_path("unet_2d.json")), "unet_2d.json");
  return json;
}

/// @param float64_only selects the cases that also have float64 tensors
inline std::vector<std::string> unet_2d_case_names(bool float64_only = false) {
  std::vector<std::string> names;
  for (const auto& item : unet_2d_cases()["cases"].items())
    if (!float64_only || item.value()["run"].value("float64", false)) names.push_back(item.key());
  return names;
}

/// Makes a model with Python's initial weights of this case, before `perturb`.
inline UNet2DModel make_case(const std::string& name) {
  const auto& entry = unet_2d_cases()["cases"].at(name);
  torch::manual_seed(entry["seed"].get<uint64_t>());
  return UNet2DModel::from_config(entry["config"].dump());
}

}  // namespace diffusers::test
