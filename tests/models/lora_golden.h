#pragma once

// The cases of tests/reference/lora.py, and the comparison of a model with Python's.

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/models/lora.h>

#include <fmt/format.h>
#include <torch/optim/adamw.h>
#include <torch/types.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers::test {

inline constexpr uint64_t kLoraSeed = 5;

struct LoraCases {
  LoraCases()
      : golden(load_golden("lora.safetensors")),
        cases(parse_json(golden.metadata.at("cases"), "cases")),
        names(parse_json(golden.metadata.at("names"), "names")) {}
  Golden golden;
  Json cases;
  Json names;
};

inline const LoraCases& lora_cases() {
  static const LoraCases cases;
  return cases;
}

inline std::vector<std::string> lora_case_names(bool text) {
  std::vector<std::string> names;
  for (const auto& item : lora_cases().cases.items())
    if (item.value().value("text", false) == text) names.push_back(item.key());
  return names;
}

inline LoraTargets lora_targets_of(const Json& json) {
  if (json.is_string()) return LoraTargets(json.get<std::string>().c_str());
  return LoraTargets(json.get<std::vector<std::string>>());
}

/// Returns the config that Python made from the same values.
inline LoraConfig lora_config_of(const Json& json) {
  LoraConfig config;
  config.r = json.at("r").get<int64_t>();
  config.lora_alpha = json.value("lora_alpha", 8.0);
  config.lora_dropout = json.value("lora_dropout", 0.0);
  if (json.contains("init_lora_weights")) {
    const auto& init = json["init_lora_weights"];
    config.init_lora_weights = init.is_string() ? init.get<std::string>() : init.dump();
  }
  config.target_modules = lora_targets_of(json.at("target_modules"));
  if (json.contains("exclude_modules")) config.exclude_modules = lora_targets_of(json["exclude_modules"]);
  config.use_rslora = json.value("use_rslora", false);
  config.use_dora = json.value("use_dora", false);
  const Json ranks = json.value("rank_pattern", Json::object());
  for (const auto& item : ranks.items())
    config.rank_pattern.emplace_back(item.key(), item.value().get<int64_t>());
  const Json alphas = json.value("alpha_pattern", Json::object());
  for (const auto& item : alphas.items())
    config.alpha_pattern.emplace_back(item.key(), item.value().get<double>());
  return config;
}

/// Returns numbers that Python computes equally.
inline Tensor lora_pattern(at::IntArrayRef shape, at::ScalarType dtype) {
  return torch::cos(torch::arange(c10::multiply_integers(shape), at::kFloat)).reshape(shape).to(dtype);
}

inline Tensor lora_flat(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> flat;
  for (const auto& tensor : tensors) flat.push_back(tensor.detach().flatten());
  return torch::cat(flat);
}

/// Compares initial weights, forward, backward, fused weights and a training with Python's.
/// @param model a model with Python's weights, in `dtype`
/// @param call computes the output that is trained
template <class Model>
void expect_lora_matches_peft(Model model, const std::string& name, at::ScalarType dtype,
                              const std::function<Tensor()>& call, const Tensor& target) {
  const auto& [golden, cases, names] = lora_cases();
  const auto& json = cases.at(name);
  const auto key = [&, &golden = golden](const char* part) {
    return golden[fmt::format("{}.{}.{}", name, dtype == at::kDouble ? "float64" : "float32", part)];
  };
  // float32: the rounding of sums in another order, over ten steps.
  const double tolerance = dtype == at::kDouble ? 1e-9 : 1e-4;
  torch::manual_seed(kLoraSeed + 1);
  std::vector<std::string> adapters;
  for (const auto& config : json["adapters"]) {
    adapters.push_back(adapters.empty() ? "default" : fmt::format("adapter_{}", adapters.size()));
    model->add_adapter(lora_config_of(config), adapters.back());
  }
  const auto weights = json.value("weights", std::vector<double>(adapters.size(), 1.0));
  if (json.contains("weights")) model->set_adapters(adapters, weights);
  model->train();

  std::vector<std::string> parameter_names;
  std::vector<Tensor> parameters;
  for (const auto& item : model->named_parameters()) {
    const bool is_adapter = item.key().find(".lora_") != std::string::npos;
    EXPECT_EQ(item.value().requires_grad(), is_adapter) << item.key();
    if (!is_adapter) continue;
    parameter_names.push_back(item.key());
    parameters.push_back(item.value());
  }
  EXPECT_EQ(parameter_names, names.at(name).get<std::vector<std::string>>());
  EXPECT_TRUE(torch::equal(lora_flat(parameters), key("initial"))) << "initial weights";

  {
    const torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parameters.size(); ++i)
      if (parameter_names[i].find(".lora_B.") != std::string::npos)
        parameters[i].add_(0.2 * lora_pattern(parameters[i].sizes(), dtype));
  }
  torch::manual_seed(kLoraSeed + 2);
  const auto output = call();
  expect_close(output, key("output"), tolerance, tolerance, name + " output");
  (output - target).square().mean().backward();
  std::vector<Tensor> gradients;
  for (const auto& parameter : parameters) gradients.push_back(parameter.grad());
  expect_close(lora_flat(gradients), key("gradients"), tolerance, tolerance, name + " gradients");

  if (golden.contains(fmt::format("{}.float32.fused", name))) {
    model->fuse_lora(0.9);
    expect_close(call(), key("fused"), tolerance, tolerance, name + " fused");
    model->unfuse_lora();
  }
  torch::optim::AdamW optimizer(parameters, torch::optim::AdamWOptions(1e-2).eps(1e-4));
  std::vector<double> losses;
  for (int step = 0; step < key("losses").numel(); ++step) {
    optimizer.zero_grad();
    const auto loss = (call() - target).square().mean();
    loss.backward();
    optimizer.step();
    losses.push_back(loss.template item<double>());
  }
  expect_close(torch::tensor(losses, at::kDouble), key("losses"), tolerance, tolerance, name + " losses");
  expect_close(lora_flat(parameters), key("trained"), tolerance, tolerance, name + " trained");
}

}  // namespace diffusers::test
