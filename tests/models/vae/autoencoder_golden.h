#pragma once

// The cases of tests/reference/autoencoders.py.

#include <string>
#include <vector>

#include <diffusers/io/files.h>

#include "models/model_golden.h"

namespace diffusers::test {

inline const Golden& autoencoder_golden() {
  static const Golden golden = load_golden("autoencoders.safetensors");
  return golden;
}

inline const Json& autoencoder_cases() {
  static const Json json = parse_json(read_text_file(golden_path("autoencoders.json")), "autoencoders.json");
  return json;
}

inline const Json& autoencoder_case(const std::string& name) { return autoencoder_cases()["cases"].at(name); }

/// @param class_name selects the cases of this class
/// @param flag selects the cases whose "run" in Python has this flag
inline std::vector<std::string> autoencoder_case_names(const std::string& class_name,
                                                       const std::string& flag = "") {
  std::vector<std::string> names;
  for (const auto& item : autoencoder_cases()["cases"].items())
    if (item.value()["class"] == class_name && (flag.empty() || item.value()["run"].value(flag, false)))
      names.push_back(item.key());
  return names;
}

/// Makes a model with Python's initial weights of this case, before they were changed.
template <class Model>
Model make_autoencoder(const std::string& name) {
  const auto& entry = autoencoder_case(name);
  torch::manual_seed(entry["seed"].get<uint64_t>());
  return Model::from_config(entry["config"].dump());
}

}  // namespace diffusers::test
