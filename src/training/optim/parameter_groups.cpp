#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <diffusers/models/layers.h>
#include <diffusers/training/parameter_groups.h>

#include <torch/nn/modules/embedding.h>

#include "core/require.h"

namespace diffusers {
namespace {

bool matches_any(std::string_view name, const std::vector<std::string>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return matches_pattern(name, pattern); });
}

void require_matches(const std::vector<std::string>& names, const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns)
    require<ConfigError>(std::any_of(names.begin(), names.end(),
                                     [&](const auto& name) { return matches_pattern(name, pattern); }),
                         "the pattern \"{}\" fits none of {} parameters{}", pattern, names.size(),
                         names.empty() ? "" : fmt::format(", the first of which is \"{}\"", names.front()));
}

struct GroupOptions {
  std::optional<double> lr, weight_decay;
  double lr_factor = 1.0;
  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 misreads it
  auto operator<=>(const GroupOptions&) const = default;
};

GroupOptions options_of(const std::string& name, const std::vector<ParameterRule>& rules) {
  GroupOptions options;
  for (const ParameterRule& rule : rules) {
    if (!matches_any(name, rule.patterns)) continue;
    if (rule.lr) options.lr = rule.lr;
    if (rule.lr_factor) options.lr_factor = *rule.lr_factor;
    if (rule.weight_decay) options.weight_decay = rule.weight_decay;
  }
  return options;
}

int64_t set_requires_grad(torch::nn::Module& module, const std::vector<std::string>& patterns,
                          bool is_trained) {
  int64_t count = 0;
  for (auto& parameter : module.named_parameters()) {
    if (!matches_any(parameter.key(), patterns)) continue;
    parameter.value().set_requires_grad(is_trained);
    ++count;
  }
  return count;
}

void add_no_decay_names(const torch::nn::Module& module, const std::string& prefix,
                        std::vector<std::string>& names) {
  const bool is_table = module.as<torch::nn::EmbeddingImpl>() != nullptr ||
                        module.as<torch::nn::EmbeddingBagImpl>() != nullptr ||
                        module.as<layers::EmbeddingImpl>() != nullptr;
  for (const auto& parameter : module.named_parameters(/*recurse=*/false))
    if (is_table || parameter.key() == "bias" || parameter.key() == "positional_embedding" ||
        parameter.value().dim() <= 1)
      names.push_back(prefix + parameter.key());
  for (const auto& child : module.named_children())
    add_no_decay_names(*child.value(), prefix + child.key() + ".", names);
}

}  // namespace

bool matches_pattern(std::string_view name, std::string_view pattern) {
  std::size_t at = 0;
  std::size_t in_pattern = 0;
  // If the text after the last star does not match, the search continues with one more character in the star.
  std::size_t after_star = std::string_view::npos;
  std::size_t star_end = 0;
  while (at < name.size()) {
    if (in_pattern < pattern.size() && pattern[in_pattern] == '*') {
      after_star = ++in_pattern;
      star_end = at;
    } else if (in_pattern < pattern.size() &&
               (pattern[in_pattern] == '?' || pattern[in_pattern] == name[at])) {
      ++in_pattern;
      ++at;
    } else if (after_star != std::string_view::npos) {
      in_pattern = after_star;
      at = ++star_end;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', in_pattern) == std::string_view::npos;
}

std::vector<ParameterGroup> make_parameter_groups(const TensorMap& named_parameters,
                                                  const std::vector<ParameterRule>& rules) {
  for (const ParameterRule& rule : rules) require_matches(named_parameters.keys(), rule.patterns);
  std::vector<ParameterGroup> groups;
  std::map<GroupOptions, std::size_t> group_of;
  for (const auto& [name, parameter] : named_parameters) {
    if (!parameter.requires_grad()) continue;
    const GroupOptions options = options_of(name, rules);
    const auto [entry, is_new] = group_of.try_emplace(options, groups.size());
    if (is_new)
      groups.push_back({.params = {},
                        .lr = options.lr,
                        .weight_decay = options.weight_decay,
                        .lr_factor = options.lr_factor});
    ParameterGroup& group = groups[entry->second];
    group.params.push_back(parameter);
    group.names.push_back(name);
  }
  require<ConfigError>(!groups.empty(), "none of {} parameters requires a gradient", named_parameters.size());
  return groups;
}

std::vector<std::string> no_decay_names(const torch::nn::Module& module) {
  std::vector<std::string> names;
  add_no_decay_names(module, "", names);
  return names;
}

ParameterRule no_decay_rule(const torch::nn::Module& module) {
  return {.patterns = no_decay_names(module), .weight_decay = 0.0};
}

int64_t freeze_parameters(torch::nn::Module& module, const std::vector<std::string>& patterns) {
  require_matches(module.named_parameters().keys(), patterns);
  return set_requires_grad(module, patterns, false);
}

int64_t train_only(torch::nn::Module& module, const std::vector<std::string>& patterns) {
  require<ConfigError>(!patterns.empty(), "train_only: there are no patterns, so nothing would be trained");
  require_matches(module.named_parameters().keys(), patterns);
  set_requires_grad(module, {"*"}, false);
  return set_requires_grad(module, patterns, true);
}

}  // namespace diffusers
