#include <diffusers/core/tensor.h>
#include <diffusers/models/state_dict.h>

#include <ATen/ATen.h>
#include <torch/types.h>

#include "core/require.h"

namespace diffusers {
namespace {

/// Adds the module's own tensors, without those of its children, with `prefix` before their names.
template <class Tensors>
void add_tensors(TensorMap& state, const std::string& prefix, const Tensors& tensors) {
  for (const auto& item : tensors)
    if (item.value().defined())
      state.insert(prefix.empty() ? item.key() : prefix + "." + item.key(), item.value());
}

TensorMap tensors_of(const torch::nn::Module& module) {
  TensorMap state;
  const auto add = [&](const std::string& prefix, const torch::nn::Module& part) {
    add_tensors(state, prefix, part.named_parameters(/*recurse=*/false));
    add_tensors(state, prefix, part.named_buffers(/*recurse=*/false));
  };
  add("", module);
  for (const auto& item : module.named_modules("", /*include_self=*/false)) add(item.key(), *item.value());
  return state;
}

std::string joined(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

TensorMap state_dict(const torch::nn::Module& module) {
  TensorMap state;
  for (const auto& [name, tensor] : tensors_of(module)) state.insert(name, tensor.detach());
  return state;
}

IncompatibleKeys load_state_dict(torch::nn::Module& module, const TensorMap& tensors,
                                 const LoadStateDictOptions& options) {
  const TensorMap state = tensors_of(module);
  IncompatibleKeys keys;
  std::vector<std::string> mismatched;
  for (const auto& [name, tensor] : state) {
    const auto given = tensors.find(name);
    if (given == tensors.end()) {
      keys.missing_keys.push_back(name);
      continue;
    }
    require<TensorError>(given->second.defined(), "load_state_dict: {} is an undefined tensor", name);
    if (given->second.sizes() != tensor.sizes()) {
      mismatched.push_back(fmt::format("{} is {}, expected {}", name, shape_string(given->second.sizes()),
                                       shape_string(tensor.sizes())));
    }
  }
  for (const auto& item : tensors)
    if (!state.contains(item.first)) keys.unexpected_keys.push_back(item.first);
  require<TensorError>(mismatched.empty(), "load_state_dict: tensors of another shape than in {}: {}",
                       module.name(), joined(mismatched));
  if (options.strict && !(keys.missing_keys.empty() && keys.unexpected_keys.empty())) {
    std::string problems;
    if (!keys.missing_keys.empty()) problems += "; missing: " + joined(keys.missing_keys);
    if (!keys.unexpected_keys.empty()) problems += "; unexpected: " + joined(keys.unexpected_keys);
    fail<TensorError>("load_state_dict: the tensors are not those of {}{}", module.name(), problems);
  }

  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : state)
    if (const auto given = tensors.find(name); given != tensors.end()) Tensor(tensor).copy_(given->second);
  return keys;
}

}  // namespace diffusers
