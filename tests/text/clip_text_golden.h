#pragma once

// The text models of tests/reference/text.py.

#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/text/clip_text_model.h>

#include <torch/types.h>

#include "core/json.h"
#include "models/model_golden.h"
#include "support/golden.h"

namespace diffusers::test {

inline const Golden& clip_text_golden() {
  static const Golden golden = load_golden("clip_text.safetensors");
  return golden;
}

inline const Json& clip_text_cases() {
  static const Json json = parse_json(read_text_file(golden_path("clip_text.json")), "clip_text.json");
  return json;
}

/// @param float64_only selects the cases that also have float64 tensors
inline std::vector<std::string> clip_text_case_names(bool float64_only = false) {
  std::vector<std::string> names;
  for (const auto& item : clip_text_cases()["cases"].items())
    if (!float64_only || item.value()["run"].value("float64", false)) names.push_back(item.key());
  return names;
}

/// Makes a model with Python's initial weights of this case, before `perturb_text_model`.
template <class Model>
Model make_text_model(const std::string& name) {
  const auto& entry = clip_text_cases()["cases"].at(name);
  torch::manual_seed(entry["seed"].get<uint64_t>());
  return Model::from_config(entry["config"].dump());
}

template <class Model>
void perturb_text_model(Model& model) {
  const torch::NoGradGuard no_grad;
  for (auto& item : model->named_parameters()) {
    if (item.key().find("norm") != std::string::npos || item.key().ends_with("bias")) {
      item.value() += 0.1 * pattern(item.value().sizes());
    } else if (item.key().find("_proj") != std::string::npos) {
      item.value() *= 4;
    }
  }
}

inline CLIPTextConfig small_text_config() {
  return {.vocab_size = 60,
          .hidden_size = 16,
          .intermediate_size = 24,
          .projection_dim = 12,
          .num_hidden_layers = 2,
          .num_attention_heads = 4,
          .max_position_embeddings = 10,
          .bos_token_id = 58,
          .eos_token_id = 59};
}

}  // namespace diffusers::test
