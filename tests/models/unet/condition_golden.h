#pragma once

// The cases of tests/reference/unet_2d_condition.py and controlnet.py: functions that make the model and the
// inputs of a case, and compare outputs and gradients.

#include <map>
#include <string>
#include <vector>

#include <diffusers/models/unet_2d_condition.h>

#include <fmt/format.h>
#include <torch/types.h>

#include "models/unet/unet_2d_golden.h"

namespace diffusers::test {

/// A golden file and its list of cases.
struct ConditionCases {
  explicit ConditionCases(const std::string& stem)
      : golden(load_golden(stem + ".safetensors")),
        cases(parse_json(read_text_file(golden_path(stem + ".json")), stem)["cases"]) {}

  /// @param float64_only selects the cases that also have float64 tensors
  std::vector<std::string> names(bool float64_only = false) const {
    std::vector<std::string> names;
    for (const auto& item : cases.items())
      if (!float64_only || item.value()["run"].value("float64", false)) names.push_back(item.key());
    return names;
  }
  /// Makes a model with Python's initial weights of this case, before `perturb`.
  template <class Model>
  Model make(const std::string& name) const {
    torch::manual_seed(cases.at(name)["seed"].get<uint64_t>());
    return Model::from_config(cases.at(name)["config"].dump());
  }

  Golden golden;
  Json cases;
};

/// Returns the inputs of a case. Floating inputs require a gradient.
class ConditionInputs {
 public:
  ConditionInputs(const ConditionCases& cases, const std::string& key) {
    const std::string prefix = key + "/input/";
    for (const auto& [name, tensor] : cases.golden.tensors) {
      if (!name.starts_with(prefix)) continue;
      inputs_[name.substr(prefix.size())] = tensor.clone().requires_grad_(tensor.is_floating_point());
    }
  }
  /// Returns an undefined tensor if the input is not given.
  Tensor operator[](const std::string& name) const {
    const auto found = inputs_.find(name);
    return found == inputs_.end() ? Tensor() : found->second;
  }
  std::vector<Tensor> list(const std::string& name) const {
    std::vector<Tensor> tensors;
    while (inputs_.count(fmt::format("{}.{}", name, tensors.size())) != 0)
      tensors.push_back(inputs_.at(fmt::format("{}.{}", name, tensors.size())));
    return tensors;
  }
  AddedCondKwargs added_cond_kwargs() const {
    return {.text_embeds = (*this)["text_embeds"],
            .time_ids = (*this)["time_ids"],
            .image_embeds = (*this)["image_embeds"],
            .hint = (*this)["hint"]};
  }
  UNet2DConditionModelForwardOptions unet_options() const {
    return {.class_labels = (*this)["class_labels"],
            .timestep_cond = (*this)["timestep_cond"],
            .attention_mask = (*this)["attention_mask"],
            .added_cond_kwargs = added_cond_kwargs(),
            .down_block_additional_residuals = list("down_block_additional_residuals"),
            .mid_block_additional_residual = (*this)["mid_block_additional_residual"],
            .down_intrablock_additional_residuals = list("down_intrablock_additional_residuals"),
            .encoder_attention_mask = (*this)["encoder_attention_mask"]};
  }
  auto begin() const { return inputs_.begin(); }
  auto end() const { return inputs_.end(); }

 private:
  std::map<std::string, Tensor> inputs_;
};

/// Compares the gradients of inputs and parameters with Python's after the backward pass.
template <class Model>
void expect_gradients(const ConditionCases& cases, const std::string& key, const ConditionInputs& inputs,
                      const Model& model, double tolerance) {
  const auto& golden = cases.golden;
  for (const auto& [name, tensor] : inputs) {
    const auto stored = key + "/input_grad/" + name;
    const bool has_gradient = tensor.is_floating_point() && tensor.grad().defined();
    ASSERT_EQ(has_gradient, golden.contains(stored)) << stored;
    if (has_gradient) expect_close_to_scale(tensor.grad(), golden[stored], tolerance, stored);
  }
  expect_gradients(*model, golden, key + "/", tolerance);
}

}  // namespace diffusers::test
