#include <algorithm>
#include <map>

#include <diffusers/models/lora.h>

#include <ATen/ops/isfinite.h>
#include <torch/types.h>

#include "core/require.h"
#include "models/layers/lora_layer.h"
#include "models/layers/lora_targets.h"

namespace diffusers {
namespace {

using LoraNames = std::vector<std::string>;

bool lora_contains(const LoraNames& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void require_adapters(const LoraNames& existing, const LoraNames& names, const char* function) {
  require<ConfigError>(!existing.empty(), "{}: the model has no adapter, call add_adapter first", function);
  for (const auto& name : names)
    require<ConfigError>(lora_contains(existing, name), "{}: there is no adapter \"{}\"; adapters: {}",
                         function, name, existing);
}

void require_not_fused(const std::vector<AdaptedLayer>& layers, const char* function) {
  for (const auto& layer : layers) {
    const auto adapters = LoraLayer::of(*layer.module);
    require<ConfigError>(adapters->merged.empty(), "{}: the adapters {} are fused, call unfuse_lora first",
                         function, adapters->merged);
  }
}

void lora_activate(const std::vector<AdaptedLayer>& layers, const LoraNames& names) {
  for (const auto& layer : layers) {
    const auto adapters = LoraLayer::of(*layer.module);
    adapters->active = names;
    adapters->update_requires_grad();
  }
}

void lora_insert(torch::nn::Module& model, const LoraConfig& config, const std::string& name,
                 const std::vector<LoraTarget>& targets) {
  const auto before = adapted_layers(model);
  if (before.empty())
    for (const auto& parameter : model.parameters()) Tensor(parameter).requires_grad_(false);
  const bool enabled = before.empty() || LoraLayer::of(*before.front().module)->enabled;
  const auto shared = std::make_shared<const LoraConfig>(config);
  int64_t number = 0;
  for (const auto& layer : before) {
    const auto adapters = LoraLayer::of(*layer.module);
    for (const auto& entry : adapters->entries()) number = std::max(number, entry.number + 1);
  }
  for (const auto& target : targets) {
    const auto adapters = LoraLayer::make(*target.layer);
    adapters->enabled = enabled;
    LoraEntry entry;
    entry.name = name;
    entry.config = shared;
    entry.number = number;
    entry.r = target.r;
    entry.alpha = target.alpha;
    adapters->add(*target.layer, std::move(entry), target.weight);
  }
  lora_activate(adapted_layers(model), {name});
}

/// The tensors of one adapter by the names of PEFT's files.
TensorMap lora_tensors_of(const torch::nn::Module& model, const std::string& name, const char* function) {
  require_adapters(detail::lora_names(model), {name}, function);
  TensorMap tensors;
  for (const auto& layer : adapted_layers(model)) {
    const auto adapters = LoraLayer::of(*layer.module);
    const auto* entry = adapters->find(name);
    if (entry == nullptr) continue;
    tensors.insert(layer.path + ".lora_A.weight", entry->lora_A);
    tensors.insert(layer.path + ".lora_B.weight", entry->lora_B);
    if (entry->magnitude.defined()) tensors.insert(layer.path + ".lora_magnitude_vector", entry->magnitude);
  }
  return tensors;
}

}  // namespace

namespace detail {

void lora_check_addition(const torch::nn::Module& model, const std::string& name) {
  require<ConfigError>(!name.empty() && name.find('.') == std::string::npos,
                       "add_adapter: the name is \"{}\", expected a name without a dot", name);
  require<ConfigError>(!lora_contains(lora_names(model), name),
                       "add_adapter: the model already has an adapter \"{}\", choose another name", name);
  require_not_fused(adapted_layers(model), "add_adapter");
}

void lora_add(torch::nn::Module& model, const LoraConfig& config, const std::string& name) {
  lora_check_addition(model, name);
  const auto checked = checked_lora_config(config);
  lora_insert(model, checked, name, lora_targets(model, checked));
}

void lora_add_at(torch::nn::Module& model, const LoraConfig& config, const std::string& name,
                 const std::vector<std::string>& paths) {
  lora_check_addition(model, name);
  const auto checked = checked_lora_config(config);
  lora_insert(model, checked, name, lora_targets_at(model, checked, paths));
}

void lora_set(torch::nn::Module& model, const std::vector<std::string>& names,
              const std::vector<double>& weights) {
  const auto layers = adapted_layers(model);
  require_adapters(lora_names(model), names, "set_adapters");
  require<ConfigError>(weights.empty() || weights.size() == names.size(),
                       "set_adapters: {} names and {} weights, expected one weight for each name",
                       names.size(), weights.size());
  for (std::size_t i = 0; i < names.size(); ++i)
    require<ConfigError>(std::count(names.begin(), names.end(), names[i]) == 1,
                         "set_adapters: the adapter \"{}\" is given twice", names[i]);
  require_not_fused(layers, "set_adapters");
  for (const auto& layer : layers) {
    const auto adapters = LoraLayer::of(*layer.module);
    for (std::size_t i = 0; i < names.size(); ++i)
      if (auto* entry = adapters->find(names[i]))
        entry->scaling = entry->initial_scaling() * (weights.empty() ? 1.0 : weights[i]);
  }
  lora_activate(layers, names);
}

void lora_enable(torch::nn::Module& model, bool enabled) {
  const auto layers = adapted_layers(model);
  require_adapters(lora_names(model), {}, enabled ? "enable_adapters" : "disable_adapters");
  if (!enabled && lora_is_fused(model)) lora_unfuse(model);
  for (const auto& layer : layers) {
    const auto adapters = LoraLayer::of(*layer.module);
    adapters->enabled = enabled;
    adapters->update_requires_grad();
  }
}

void lora_delete(torch::nn::Module& model, const std::vector<std::string>& names) {
  require_adapters(lora_names(model), names, "delete_adapter");
  require_not_fused(adapted_layers(model), "delete_adapter");
  for (const auto& name : names)
    for (const auto& layer : adapted_layers(model)) LoraLayer::of(*layer.module)->remove(*layer.module, name);
  const auto layers = adapted_layers(model);
  if (layers.empty()) return;
  auto active = LoraLayer::of(*layers.front().module)->active;
  std::erase_if(active, [&](const std::string& name) { return lora_contains(names, name); });
  if (active.empty()) {
    const auto remaining = lora_names(model);
    active = {*std::min_element(remaining.begin(), remaining.end())};
  }
  lora_activate(layers, active);
}

void lora_unload(torch::nn::Module& model) {
  for (const auto& name : lora_names(model))
    for (const auto& layer : adapted_layers(model)) LoraLayer::of(*layer.module)->remove(*layer.module, name);
}

void lora_fuse(torch::nn::Module& model, double scale, bool safe, const std::vector<std::string>& names) {
  const auto layers = adapted_layers(model);
  require_adapters(lora_names(model), names, "fuse_lora");
  require_not_fused(layers, "fuse_lora");
  const auto first = LoraLayer::of(*layers.front().module);
  require<ConfigError>(first->enabled, "fuse_lora: the adapters are disabled, call enable_adapters first");
  const auto wanted = names.empty() ? first->active : names;
  require<ConfigError>(!wanted.empty(), "fuse_lora: no adapter is active; adapters: {}", lora_names(model));

  const torch::NoGradGuard no_grad;
  std::vector<Tensor> fused;
  for (const auto& layer : layers) {
    fused.push_back(LoraLayer::of(*layer.module)->fused(layer.weight, wanted, scale));
    require<TensorError>(!safe || at::isfinite(fused.back()).all().item<bool>(),
                         "fuse_lora: the weight of {} would not be finite with the adapters {}", layer.path,
                         wanted);
  }
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto adapters = LoraLayer::of(*layers[i].module);
    adapters->original = layers[i].weight.detach().clone();
    adapters->merged = wanted;
    Tensor(layers[i].weight).copy_(fused[i]);
  }
}

bool lora_is_fused(const torch::nn::Module& model) {
  const auto layers = adapted_layers(model);
  return !layers.empty() && !LoraLayer::of(*layers.front().module)->merged.empty();
}

void lora_unfuse(torch::nn::Module& model) {
  require<ConfigError>(lora_is_fused(model), "unfuse_lora: no adapter is fused");
  const auto layers = adapted_layers(model);
  const torch::NoGradGuard no_grad;
  for (const auto& layer : layers) {
    const auto adapters = LoraLayer::of(*layer.module);
    Tensor(layer.weight).copy_(adapters->original);
    adapters->original = Tensor();
    adapters->merged.clear();
  }
}

std::vector<std::string> lora_active(const torch::nn::Module& model) {
  const auto layers = adapted_layers(model);
  return layers.empty() ? LoraNames() : LoraLayer::of(*layers.front().module)->active;
}

std::vector<std::string> lora_names(const torch::nn::Module& model) {
  std::map<int64_t, std::string> by_number;
  for (const auto& layer : adapted_layers(model)) {
    const auto adapters = LoraLayer::of(*layer.module);
    for (const auto& entry : adapters->entries()) by_number.emplace(entry.number, entry.name);
  }
  LoraNames names;
  for (auto& item : by_number) names.push_back(std::move(item.second));
  return names;
}

LoraConfig lora_config(const torch::nn::Module& model, const std::string& name) {
  require_adapters(lora_names(model), {name}, "peft_config");
  for (const auto& layer : adapted_layers(model)) {
    const auto adapters = LoraLayer::of(*layer.module);
    if (const auto* entry = adapters->find(name)) return *entry->config;
  }
  return {};
}

}  // namespace detail

TensorMap get_peft_model_state_dict(const torch::nn::Module& model, const std::string& adapter_name) {
  TensorMap tensors;
  for (const auto& [name, tensor] : lora_tensors_of(model, adapter_name, "get_peft_model_state_dict"))
    tensors.insert(name, tensor.detach());
  return tensors;
}

void set_peft_model_state_dict(torch::nn::Module& model, const TensorMap& tensors,
                               const std::string& adapter_name) {
  const auto own = lora_tensors_of(model, adapter_name, "set_peft_model_state_dict");
  LoraNames missing;
  LoraNames unknown;
  LoraNames mismatched;
  for (const auto& [name, tensor] : own) {
    const auto given = tensors.find(name);
    if (given == tensors.end()) {
      missing.push_back(name);
    } else if (given->second.numel() != tensor.numel() ||
               (given->second.sizes() != tensor.sizes() && given->second.dim() == tensor.dim())) {
      mismatched.push_back(fmt::format("{} is {}, expected {}", name, shape_string(given->second.sizes()),
                                       shape_string(tensor.sizes())));
    }
  }
  for (const auto& item : tensors)
    if (!own.contains(item.first)) unknown.push_back(item.first);
  require<TensorError>(missing.empty() && unknown.empty(),
                       "adapter \"{}\": tensors that are missing: {}; tensors without a layer: {}",
                       adapter_name, missing, unknown);
  require<TensorError>(mismatched.empty(), "adapter \"{}\": tensors of another shape: {}", adapter_name,
                       fmt::join(mismatched, ", "));
  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : own) Tensor(tensor).copy_(tensors.at(name).reshape(tensor.sizes()));
}

}  // namespace diffusers
