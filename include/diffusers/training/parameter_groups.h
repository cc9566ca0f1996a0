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

/// Compares a name with a pattern. `*` matches any number of characters, dots included. `?` matches one
/// character.
///
/// "down_blocks.*.attentions.*" matches "down_blocks.1.attentions.0.proj_in.weight". "*.bias" matches the
/// bias of every submodule.
/// @param name name of a parameter
/// @param pattern text with `*` and `?`
/// @return true if the whole name matches the pattern
bool matches_pattern(std::string_view name, std::string_view pattern);

/// Options of the parameters whose names match a pattern. An option without a value has the value of an
/// earlier rule that matches, or the optimizer's.
struct ParameterRule {
  std::vector<std::string> patterns;                  ///< patterns of names; see `matches_pattern`
  std::optional<double> lr = std::nullopt;            ///< learning rate, 0 or more
  std::optional<double> lr_factor = std::nullopt;     ///< factor on the learning rate, 0 or more
  std::optional<double> weight_decay = std::nullopt;  ///< weight decay, 0 or more
};

/// Sorts parameters into groups of equal learning rate and weight decay.
///
/// If several rules match a name, the last rule that sets an option decides. Parameters that do not require a
/// gradient are left out. The groups contain the names, so that the keys of the optimizer's state do not
/// depend on the rules.
/// @param named_parameters such as `unet->named_parameters()`
/// @param rules in the order in which they apply
/// @return the groups, for the constructor of `Optimizer`
/// @throws ConfigError naming a pattern that matches no name, and if no parameter requires a gradient
std::vector<ParameterGroup> make_parameter_groups(const TensorMap& named_parameters,
                                                  const std::vector<ParameterRule>& rules);

/// Lists the parameters that are usually trained without weight decay: parameters with at most one dimension
/// (biases, scales and shifts of norms), names that end in ".bias", tables of embeddings (class labels,
/// tokens, positions, codebooks) and parameters named "positional_embedding".
/// @param module model
/// @return their names
std::vector<std::string> no_decay_names(const torch::nn::Module& module);

/// Creates the rule that sets the weight decay of `no_decay_names` to 0.
/// @param module model
/// @return the rule; it has no patterns and no effect if there are no such parameters
ParameterRule no_decay_rule(const torch::nn::Module& module);

/// Freezes the parameters whose names match a pattern: they no longer require a gradient.
/// @param module model
/// @param patterns patterns of names; see `matches_pattern`
/// @return number of parameters that match
/// @throws ConfigError naming a pattern that matches no name. Nothing is changed then
int64_t freeze_parameters(torch::nn::Module& module, const std::vector<std::string>& patterns);

/// Freezes all parameters except those whose names match a pattern, which then require a gradient.
/// @param module model
/// @param patterns patterns of names; see `matches_pattern`
/// @return number of parameters that match
/// @throws ConfigError naming a pattern that matches no name, and for no patterns. Nothing is changed then
int64_t train_only(torch::nn::Module& module, const std::vector<std::string>& patterns);

}  // namespace diffusers
