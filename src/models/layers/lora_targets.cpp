#include "models/layers/lora_targets.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <regex>
#include <set>
#include <string_view>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

std::regex lora_regex(const char* field, const std::string& pattern, const std::string& expression) {
  try {
    return std::regex(expression);
  } catch (const std::regex_error& error) {
    fail<ConfigError>("{}: \"{}\" is not a regular expression: {}", field, pattern, error.what());
  }
}

bool ends_a_path(std::string_view path, std::string_view end) {
  if (!path.ends_with(end)) return false;
  return path.size() == end.size() || path[path.size() - end.size() - 1] == '.';
}

/// `target_modules` or `exclude_modules`.
class LoraSelection {
 public:
  LoraSelection(const char* field, const LoraTargets& targets) : targets_(targets) {
    if (!targets.empty() && !targets.is_list()) regex_ = lora_regex(field, targets.value(), targets.value());
  }
  bool takes(const std::string& path) const {
    if (targets_.empty()) return false;
    if (!targets_.is_list()) return std::regex_match(path, regex_);
    return std::any_of(targets_.values().begin(), targets_.values().end(),
                       [&](const std::string& end) { return ends_a_path(path, end); });
  }

 private:
  const LoraTargets& targets_;
  std::regex regex_;
};

/// A key of `rank_pattern` or `alpha_pattern`. PEFT matches `(.*\.)?(KEY)$`.
class LoraPatternKey {
 public:
  LoraPatternKey(const char* field, const std::string& key) : key_(key) {
    // Files give one key for each layer, "^" and its path. These are compared without regular expressions.
    whole_ = key_.starts_with('^');
    end_ = std::string_view(key_).substr(whole_ ? 1 : 0);
    plain_ = std::all_of(end_.begin(), end_.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '_' || c == '.' || c == '-';
    });
    if (!plain_) regex_ = lora_regex(field, key, "(.*\\.)?(" + key + ")");
  }
  LoraPatternKey(const LoraPatternKey&) = delete;
  LoraPatternKey& operator=(const LoraPatternKey&) = delete;
  bool matches(const std::string& path) const {
    if (!plain_) return std::regex_match(path, regex_);
    return whole_ ? path == end_ : ends_a_path(path, end_);
  }

 private:
  std::string key_;
  std::string_view end_;
  bool whole_ = false;
  bool plain_ = false;
  std::regex regex_;
};

/// Finds the value of a layer in `rank_pattern` or `alpha_pattern`.
template <class Value>
class LoraPattern {
 public:
  LoraPattern(const char* field, const std::vector<std::pair<std::string, Value>>& items) {
    for (const auto& [key, value] : items) {
      keys_.push_back(std::make_unique<LoraPatternKey>(field, key));
      values_.push_back(value);
    }
  }
  Value value(const std::string& path, Value otherwise) const {
    for (std::size_t i = 0; i < keys_.size(); ++i)
      if (keys_[i]->matches(path)) return values_[i];
    return otherwise;
  }

 private:
  std::vector<std::unique_ptr<LoraPatternKey>> keys_;
  std::vector<Value> values_;
};

std::string shown_targets(const LoraTargets& targets) {
  return targets.is_list() ? fmt::format("{}", targets.values()) : fmt::format("\"{}\"", targets.value());
}

/// The last parts of the paths of all layers that can have an adapter, without indices.
std::string existing_targets(const torch::nn::Module& model) {
  std::set<std::string> ends;
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    if (!adaptable_weight(*item.value()).defined()) continue;
    std::string path = item.key();
    auto dot = path.rfind('.');
    if (dot != std::string::npos && std::isdigit(static_cast<unsigned char>(path[dot + 1])) != 0)
      dot = path.rfind('.', dot - 1);
    ends.insert(dot == std::string::npos ? path : path.substr(dot + 1));
  }
  return fmt::format("{}", fmt::join(ends, ", "));
}

}  // namespace

LoraConfig checked_lora_config(LoraConfig config) {
  require<ConfigError>(config.r > 0, "r of a LoRA adapter is {}, expected a positive integer", config.r);
  require<ConfigError>(std::isfinite(static_cast<double>(config.lora_alpha)),
                       "lora_alpha is {}, expected a finite number", static_cast<double>(config.lora_alpha));
  require<ConfigError>(config.lora_dropout >= 0 && config.lora_dropout <= 1,
                       "lora_dropout is {}, expected a number in [0, 1]", config.lora_dropout);
  std::string init = config.init_lora_weights;
  std::transform(init.begin(), init.end(), init.begin(), [](unsigned char c) { return std::tolower(c); });
  require<ConfigError>(
      init == "default" || init == "true" || init == "false" || init == "gaussian",
      "init_lora_weights is \"{}\", expected one of: \"default\" \"true\" \"gaussian\" \"false\". "
      "PEFT's other values change the weights of the model and are not supported",
      config.init_lora_weights);
  config.init_lora_weights = init;
  require<ConfigError>(config.bias == "none",
                       "bias of a LoRA adapter is \"{}\", only \"none\" is supported: biases are not trained",
                       config.bias);
  require<ConfigError>(!config.target_modules.empty(),
                       "target_modules of a LoRA adapter is empty, expected names of layers such as "
                       "{{\"to_q\", \"to_k\", \"to_v\", \"to_out.0\"}}");
  require<ConfigError>(config.target_modules.is_list() || config.target_modules.value() != "all-linear",
                       "target_modules \"all-linear\" is not supported, name the layers");
  for (const auto& [key, rank] : config.rank_pattern)
    require<ConfigError>(rank > 0, "rank_pattern \"{}\" is {}, expected a positive integer", key, rank);
  for (const auto& [key, alpha] : config.alpha_pattern)
    require<ConfigError>(std::isfinite(static_cast<double>(alpha)),
                         "alpha_pattern \"{}\" is {}, expected a finite number", key,
                         static_cast<double>(alpha));
  return config;
}

std::vector<LoraTarget> lora_targets(const torch::nn::Module& model, const LoraConfig& config) {
  const LoraSelection selected("target_modules", config.target_modules);
  const LoraSelection excluded("exclude_modules", config.exclude_modules);
  const LoraPattern<int64_t> ranks("rank_pattern", config.rank_pattern);
  const LoraPattern<LoraAlpha> alphas("alpha_pattern", config.alpha_pattern);

  std::vector<LoraTarget> targets;
  std::set<const torch::nn::Module*> inside;
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    const auto& module = item.value();
    if (inside.contains(module.get())) continue;
    const auto weight = adaptable_weight(*module);
    // The children of such a layer belong to its adapters.
    if (weight.defined())
      for (const auto& child : module->modules(/*include_self=*/false)) inside.insert(child.get());
    if (!selected.takes(item.key()) || excluded.takes(item.key())) continue;
    require<ConfigError>(
        weight.defined(),
        "target_modules {}: {} is a {}; only linear layers and convolutions can have an adapter",
        shown_targets(config.target_modules), item.key(), module->name());
    targets.push_back({item.key(), module, weight, ranks.value(item.key(), config.r),
                       alphas.value(item.key(), config.lora_alpha)});
  }
  require<ConfigError>(!targets.empty(), "target_modules {}: no layer of {} has such a name; layers: {}",
                       shown_targets(config.target_modules), model.name(), existing_targets(model));
  return targets;
}

std::vector<LoraTarget> lora_targets_at(const torch::nn::Module& model, const LoraConfig& config,
                                        const std::vector<std::string>& paths) {
  const LoraPattern<int64_t> ranks("rank_pattern", config.rank_pattern);
  const LoraPattern<LoraAlpha> alphas("alpha_pattern", config.alpha_pattern);
  const auto modules = model.named_modules("", /*include_self=*/false);
  std::vector<LoraTarget> targets;
  for (const auto& path : paths) {
    const auto* module = modules.find(path);
    const auto weight = module == nullptr ? Tensor() : adaptable_weight(**module);
    require<ConfigError>(weight.defined(), "{} has no linear layer or convolution {}", model.name(), path);
    targets.push_back(
        {path, *module, weight, ranks.value(path, config.r), alphas.value(path, config.lora_alpha)});
  }
  return targets;
}

}  // namespace internal
}  // namespace diffusers
