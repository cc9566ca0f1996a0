#pragma once

#include <concepts>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <torch/nn/module.h>

namespace diffusers {

/// Options of `load_state_dict`.
struct LoadStateDictOptions {
  /// Throws if a tensor of the module is missing or if a name is unknown. false: returns such names. A wrong
  /// shape always throws, as in PyTorch.
  bool strict = true;
};

/// The names that `load_state_dict` could not match (PyTorch: the result of `Module.load_state_dict`).
struct IncompatibleKeys {
  std::vector<std::string> missing_keys = {};     ///< tensors of the module that were not given
  std::vector<std::string> unexpected_keys = {};  ///< given tensors that the module does not have
};

/// Returns the parameters and buffers of a module by name, in PyTorch's order: the parameters of the module,
/// its buffers, then its children (PyTorch: `Module.state_dict`).
/// @param module any module
/// @return the tensors without their graph; they share memory with the module
TensorMap state_dict(const torch::nn::Module& module);

/// Copies tensors into the parameters and buffers of a module (PyTorch: `Module.load_state_dict`). The module
/// keeps its dtypes and devices. If an error is thrown, nothing has been copied.
/// @param module any module
/// @param tensors by their names in `state_dict(module)`
/// @param options strictness
/// @return the names without a counterpart; both lists are empty if `strict` is true
/// @throws TensorError naming missing and unexpected tensors if `strict` is true, naming the tensors and both
///   shapes on a mismatch, and naming a tensor that is undefined
IncompatibleKeys load_state_dict(torch::nn::Module& module, const TensorMap& tensors,
                                 const LoadStateDictOptions& options = {});

/// A holder of a module, such as UNet2DModel and torch.nn's, or a pointer to one.
template <class Holder>
concept ModuleHandle = requires(Holder holder) {
  { *holder.operator->() } -> std::convertible_to<torch::nn::Module&>;
};

/// Returns the parameters and buffers of the module of a holder: `state_dict(unet)`.
/// @param module a holder or pointer that is not empty
/// @return the tensors without their graph; they share memory with the module
template <ModuleHandle Holder>
TensorMap state_dict(Holder module) {
  return state_dict(static_cast<const torch::nn::Module&>(*module.operator->()));
}

/// Copies tensors into the module of a holder: `load_state_dict(unet, tensors)`.
/// @param module a holder or pointer that is not empty
/// @param tensors by their names in `state_dict(module)`
/// @param options strictness
/// @return the names without a counterpart
/// @throws TensorError as above
template <ModuleHandle Holder>
IncompatibleKeys load_state_dict(Holder module, const TensorMap& tensors,
                                 const LoadStateDictOptions& options = {}) {
  return load_state_dict(static_cast<torch::nn::Module&>(*module.operator->()), tensors, options);
}

}  // namespace diffusers
