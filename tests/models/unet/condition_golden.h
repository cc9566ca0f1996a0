#pragma once

// The cases of tests/reference/unet_2d_condition.py and controlnet.py: making the model of a case, its
// inputs, and comparing what comes out.

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

  /// @param float64_only those that also have numbers in float64
  std::vector<std::string> names(bool float64_only = false) const {
    std::vector<std::string> names;
    for (const auto& item : cases.items())
      if (!float64_only || item.value()["run"].value("float64", false)) names.push_back(item.key());
    return names;
  }
  /// A model with the weights that Python had in this case, before `perturb`.
  template <class Model>
  Model make(const std::string& name) const {
    torch::manual_seed(cases.at(name)["seed"].get<uint64_t>());
    return Model::from_config(cases.at(name)["config"].dump());
  }

  Golden golden;
  Json cases;
};

/// The inputs of a case; floating ones require a gradient.
class ConditionInputs {
 public:
  ConditionInputs(const ConditionCases& cases, const std::string& key) {
    const std::string prefix = key + "/input/";
    for (const auto& [name, tensor] : cases.golden.tensors) {
      if (!name.starts_with(prefix)) continue;
      inputs_[name.substr(prefix.size())] = tensor.clone().requires_grad_(tensor.is_floating_point());
    }
  }
  /// Undefined where there is none.
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

/// After the backward: gradients of inputs and parameters against Python's.
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
