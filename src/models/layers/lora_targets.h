#pragma once

#include <memory>
#include <string>
#include <vector>

#include <diffusers/models/lora.h>

#include <torch/nn/module.h>

#include "models/layers/lora_layer.h"

namespace diffusers {
inline namespace internal {

/// Checks the values of a config and spells `init_lora_weights` in lower case.
/// @throws ConfigError naming the field and the value that is not supported
LoraConfig checked_lora_config(LoraConfig config);

/// A layer that an adapter is added to.
struct LoraTarget {
  std::string path;
  std::shared_ptr<torch::nn::Module> layer;
  Tensor weight;
  int64_t r = 0;
  double alpha = 0;
};

/// Returns the layers that a config selects, in the model's order.
/// @throws ConfigError if none is selected, or one that cannot have an adapter
std::vector<LoraTarget> lora_targets(const torch::nn::Module& model, const LoraConfig& config);

/// Returns the layers at given paths, in the order of the paths.
/// @throws ConfigError if a path is none of a linear layer or a convolution
std::vector<LoraTarget> lora_targets_at(const torch::nn::Module& model, const LoraConfig& config,
                                        const std::vector<std::string>& paths);

}  // namespace internal
}  // namespace diffusers
