#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/lora.h>

#include <torch/nn/module.h>

namespace diffusers {
inline namespace internal {

/// The adapter of one name in one layer.
struct LoraEntry {
  std::string name;
  std::shared_ptr<const LoraConfig> config;
  int64_t number = 0;  ///< position among the adapters of the model, by the time of addition
  int64_t r = 0;
  double alpha = 0;
  double scaling = 0;  ///< factor of the update: `initial_scaling()` times the weight of `set_adapters`
  Tensor lora_A;       ///< `[r, in]` or `[r, in, k, k]`
  Tensor lora_B;       ///< `[out, r]` or `[out, r, 1, 1]`
  Tensor magnitude;    ///< DoRA: `[out]` or `[1, out, 1, 1]`

  double initial_scaling() const;
};

/// All adapters of a `Linear` or a `Conv2d`. It is the child "lora_A" of that layer, and holds the state of
/// the layer's other children "lora_B" and "lora_magnitude_vector", too.
class LoraLayer : public torch::nn::Module {
 public:
  /// Returns the adapters of a layer, or null. Costs a few nanoseconds for a layer without children.
  static std::shared_ptr<LoraLayer> of(const torch::nn::Module& layer);
  /// Returns the adapters of a layer, which get their place in it if there are none.
  static std::shared_ptr<LoraLayer> make(torch::nn::Module& layer);

  /// Adds an adapter with new weights.
  /// @param weight weight of the layer
  void add(torch::nn::Module& layer, LoraEntry entry, const Tensor& weight);
  /// Adds a copy of the adapters of another layer, with tensors of the same shapes.
  void copy_from(torch::nn::Module& layer, const LoraLayer& other);
  /// Deletes an adapter if the layer has it. Deleting the last one removes this object from the layer.
  void remove(torch::nn::Module& layer, const std::string& name);

  /// Computes the layer's result with its active adapters. A 1x1 convolution can be computed as a linear
  /// layer of tokens `[B, L, in]`: code that does so passes the weight as a matrix, and no `conv`.
  /// @param input input of the layer
  /// @param base_result the layer's result without adapters
  /// @param weight weight of the layer
  /// @param bias bias of the layer; may be undefined
  /// @param conv stride and padding of a convolution; null for a linear layer
  Tensor apply(const Tensor& input, const Tensor& base_result, const Tensor& weight, const Tensor& bias,
               const layers::Conv2dOptions* conv) const;

  /// Returns the weight plus the updates of adapters.
  Tensor fused(const Tensor& weight, const std::vector<std::string>& names, double scale) const;

  LoraEntry* find(const std::string& name);
  const LoraEntry* find(const std::string& name) const;
  const std::vector<LoraEntry>& entries() const { return entries_; }
  /// Makes the active adapters trainable, all others not.
  void update_requires_grad();
  bool draws_random_numbers() const;

  std::vector<std::string> active;  ///< names of the active adapters of the model
  bool enabled = true;
  std::vector<std::string> merged;  ///< names of the fused adapters
  Tensor original;                  ///< weight before `fuse_lora`; undefined if no adapter is fused

 private:
  void insert(torch::nn::Module& layer, LoraEntry entry);
  std::vector<LoraEntry> entries_;
};

/// A layer that can have adapters.
struct AdaptedLayer {
  std::string path;
  std::shared_ptr<torch::nn::Module> module;
  Tensor weight;
};

/// Returns the weight of a `Linear` or a `Conv2d`, and an undefined tensor for other modules.
Tensor adaptable_weight(const torch::nn::Module& module);
/// Returns the layers of a model that have adapters, in the model's order.
std::vector<AdaptedLayer> adapted_layers(const torch::nn::Module& model);
/// Returns the tensors of all adapters of a model.
std::unordered_set<const c10::TensorImpl*> lora_tensors(const torch::nn::Module& model);
/// Gives `to` the adapters of `from`, with tensors of the same shapes but unset values.
void copy_lora_adapters(const torch::nn::Module& from, torch::nn::Module& to);
/// Returns true if the forward pass of a module draws random numbers for dropout in adapters.
bool lora_draws_random_numbers(const torch::nn::Module& module);

}  // namespace internal
}  // namespace diffusers
