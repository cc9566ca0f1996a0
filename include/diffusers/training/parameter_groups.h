#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/tensor_map.h>
#include <diffusers/training/optimizer.h>

#include <torch/nn/module.h>

namespace diffusers {

/// True if the whole name fits the pattern: `*` stands for any characters, dots included, or none, `?` for
/// one character, everything else for itself. "down_blocks.*.attentions.*" fits
/// "down_blocks.1.attentions.0.proj_in.weight"; "*.bias" fits every bias but one that is named "bias".
bool matches_pattern(std::string_view name, std::string_view pattern);

/// What holds for the parameters whose names fit one of the patterns; what is not given is left to earlier
/// rules and the optimizer.
struct ParameterRule {
  std::vector<std::string> patterns;
  std::optional<double> lr = std::nullopt;
  /// What the learning rate is multiplied with.
  std::optional<double> lr_factor = std::nullopt;
  std::optional<double> weight_decay = std::nullopt;
};

/// Sorts the parameters into groups of one learning rate and weight decay. Where several rules fit a name,
/// each option is the one that the last of them gives. Parameters that do not require a gradient are left
/// out. The groups carry the names, so that the optimizer's state does not depend on the rules.
/// @param named_parameters such as `module.named_parameters()`
/// @throws ConfigError naming a pattern that fits no name, and for no parameter that can be trained
std::vector<ParameterGroup> make_parameter_groups(const TensorMap& named_parameters,
                                                  const std::vector<ParameterRule>& rules);

/// The names of what weight decay should leave alone: parameters of one dimension or none (biases, scales and
/// shifts of norms), names that end in ".bias", the tables of embeddings (class labels, tokens, positions,
/// codebooks; `torch::nn::Embedding` and this library's) and parameters named "positional_embedding".
std::vector<std::string> no_decay_names(const torch::nn::Module& module);

/// `no_decay_names` with a weight decay of 0; without patterns, and without effect, if there are none.
ParameterRule no_decay_rule(const torch::nn::Module& module);

/// Stops the gradients of the parameters whose names fit one of the patterns.
/// @return how many parameters that are
/// @throws ConfigError naming a pattern that fits no name
int64_t freeze_parameters(torch::nn::Module& module, const std::vector<std::string>& patterns);

/// Lets those parameters alone be trained whose names fit one of the patterns, and freezes all others.
/// @return how many parameters are trained
/// @throws ConfigError naming a pattern that fits no name, and for no patterns at all
int64_t train_only(torch::nn::Module& module, const std::vector<std::string>& patterns);

}  // namespace diffusers
