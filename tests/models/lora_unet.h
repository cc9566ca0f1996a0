#pragma once

// The UNet of tests/reference/lora.py, for tests of adapters.

#include <diffusers/core/random.h>
#include <diffusers/models/unet_2d_condition.h>

#include <torch/types.h>

#include "models/lora_golden.h"

namespace diffusers::test {

inline UNet2DConditionModel lora_unet(at::ScalarType dtype = at::kFloat) {
  torch::manual_seed(kLoraSeed);
  auto unet = UNet2DConditionModel::from_config(lora_cases().golden.metadata.at("unet"));
  unet->to(dtype);
  return unet;
}

inline Tensor lora_output(const UNet2DConditionModel& unet, at::ScalarType dtype = at::kFloat) {
  return unet
      ->forward(lora_pattern({2, 2, 8, 8}, dtype), torch::tensor({3, 500}), lora_pattern({2, 3, 6}, dtype))
      .sample;
}

/// Gives every B of the adapters values other than zero.
template <class Model>
void move_lora(const Model& model, double scale = 0.3) {
  const torch::NoGradGuard no_grad;
  for (const auto& item : model->named_parameters())
    if (item.key().find(".lora_B.") != std::string::npos)
      Tensor(item.value()).copy_(scale * lora_pattern(item.value().sizes(), item.value().scalar_type()));
}

}  // namespace diffusers::test
