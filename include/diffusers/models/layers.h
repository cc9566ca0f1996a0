#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

/// The layers of the models. They have the parameters of torch.nn's layers of the same name and draw the same
/// initial values, so a seed gives Python's weights bit for bit. Unlike the layers of `torch::nn`, they can
/// skip the initialisation before weights are loaded.
namespace diffusers::layers {

/// While a guard exists, layers that are made on its thread leave their parameters uninitialised and draw no
/// random numbers.
class SkipInitGuard {
 public:
  /// Disables initialisation on this thread.
  SkipInitGuard();
  /// Restores the previous state.
  ~SkipInitGuard();
  SkipInitGuard(const SkipInitGuard&) = delete;
  SkipInitGuard& operator=(const SkipInitGuard&) = delete;
  /// @return true if this thread has a guard
  static bool active();

 private:
  bool previous_;
};

/// A linear layer, y = x W^T + b (torch.nn `Linear`).
class LinearImpl : public torch::nn::Module {
 public:
  /// Draws the weights.
  /// @param in_features width of the input
  /// @param out_features width of the result
  /// @param bias adds b
  LinearImpl(int64_t in_features, int64_t out_features, bool bias = true);
  /// Applies the layer.
  /// @param input `[..., in_features]`
  /// @return `[..., out_features]`
  Tensor forward(const Tensor& input) const;
  Tensor weight;  ///< `[out_features, in_features]`
  Tensor bias;    ///< `[out_features]`, undefined without bias
};
/// A handle of a `LinearImpl`.
TORCH_MODULE(Linear);

/// The arguments of `Conv2d` besides the channels.
struct Conv2dOptions {
  int64_t kernel_size = 3;  ///< height and width of the kernel
  int64_t stride = 1;       ///< stride in both directions
  int64_t padding = 0;      ///< number of zeros on each side
  bool bias = true;         ///< adds a bias
};

/// A two-dimensional convolution with square kernel, equal strides and zero padding (torch.nn `Conv2d`).
class Conv2dImpl : public torch::nn::Module {
 public:
  /// Draws the weights.
  /// @param in_channels channels of the input
  /// @param out_channels channels of the result
  /// @param options the other arguments
  Conv2dImpl(int64_t in_channels, int64_t out_channels, const Conv2dOptions& options);
  /// Applies the layer.
  /// @param input `[B, in_channels, H, W]`
  /// @return `[B, out_channels, H', W']`
  Tensor forward(const Tensor& input) const;
  Tensor weight;  ///< `[out_channels, in_channels, kernel_size, kernel_size]`
  Tensor bias;    ///< `[out_channels]`, undefined without bias

 private:
  Conv2dOptions options_;
};
/// A handle of a `Conv2dImpl`.
TORCH_MODULE(Conv2d);

/// Normalisation over groups of channels, with weight and bias for each channel (Wu and He 2018; torch.nn
/// `GroupNorm`).
class GroupNormImpl : public torch::nn::Module {
 public:
  /// Makes weights of one and biases of zero.
  /// @param num_groups number of groups
  /// @param num_channels channels of the input
  /// @param eps added to the variance
  /// @throws ConfigError unless num_groups divides num_channels
  GroupNormImpl(int64_t num_groups, int64_t num_channels, double eps = 1e-5);
  /// Applies the layer.
  /// @param input `[B, num_channels, ...]`
  /// @return shape of input
  Tensor forward(const Tensor& input) const;
  /// Applies the layer and SiLU, with a fused kernel if one is available (`group_norm_silu`).
  /// @param input `[B, num_channels, ...]`
  /// @return shape of input
  Tensor forward_silu(const Tensor& input) const;
  Tensor weight;  ///< `[num_channels]`
  Tensor bias;    ///< `[num_channels]`

 private:
  int64_t num_groups_;
  double eps_;
};
/// A handle of a `GroupNormImpl`.
TORCH_MODULE(GroupNorm);

/// Normalisation over the last dimension (Ba et al. 2016; torch.nn `LayerNorm`).
class LayerNormImpl : public torch::nn::Module {
 public:
  /// Makes weights of one and biases of zero.
  /// @param size length of the last dimension
  /// @param eps added to the variance
  explicit LayerNormImpl(int64_t size, double eps = 1e-5);
  /// Applies the layer.
  /// @param input `[..., size]`
  /// @return shape of input
  Tensor forward(const Tensor& input) const;
  Tensor weight;  ///< `[size]`
  Tensor bias;    ///< `[size]`

 private:
  double eps_;
};
/// A handle of a `LayerNormImpl`.
TORCH_MODULE(LayerNorm);

/// A table of vectors (torch.nn `Embedding`).
class EmbeddingImpl : public torch::nn::Module {
 public:
  /// Draws the vectors.
  /// @param num_embeddings number of vectors
  /// @param embedding_dim length of a vector
  EmbeddingImpl(int64_t num_embeddings, int64_t embedding_dim);
  /// Looks up vectors.
  /// @param indices integral, each in [0, num_embeddings)
  /// @return shape of indices with embedding_dim at the end
  Tensor forward(const Tensor& indices) const;
  Tensor weight;  ///< `[num_embeddings, embedding_dim]`
};
/// A handle of an `EmbeddingImpl`.
TORCH_MODULE(Embedding);

/// Modules of one kind with the names "0", "1", ... (torch.nn `ModuleList`).
/// @tparam Pointer a holder of a module or a shared pointer to one
template <class Pointer>
class ModuleVectorImpl : public torch::nn::Module {
 public:
  /// Registers a module at the end.
  /// @param module the module
  void push_back(Pointer module) {
    register_module(std::to_string(items_.size()), module);
    items_.push_back(std::move(module));
  }
  /// @return number of modules
  std::size_t size() const { return items_.size(); }
  /// @return true if there are no modules
  bool empty() const { return items_.empty(); }
  /// @param index in [0, size())
  /// @return the module at `index`
  const Pointer& operator[](std::size_t index) const { return items_[index]; }
  /// @return iterator at the first module
  auto begin() const { return items_.begin(); }
  /// @return iterator past the last module
  auto end() const { return items_.end(); }

 private:
  std::vector<Pointer> items_;
};
/// A shared pointer to a `ModuleVectorImpl`.
template <class Pointer>
using ModuleVector = std::shared_ptr<ModuleVectorImpl<Pointer>>;

/// The activation functions that configs can name in `act_fn`.
enum class Activation {
  kSilu,  ///< "silu" or "swish"
  kMish,  ///< "mish"
  kGelu,  ///< "gelu"
  kRelu   ///< "relu"
};

/// Returns the activation function with one of Python's names.
/// @param name "silu", "swish", "mish", "gelu" or "relu"; upper and lower case are equal
/// @param key name of the config field, for the message
/// @return the function
/// @throws ConfigError naming the key, the value and the supported values
Activation activation_from_name(std::string_view name, std::string_view key = "act_fn");
/// Applies an activation function.
/// @param activation the function
/// @param input any shape, floating
/// @return shape of input
Tensor activate(Activation activation, const Tensor& input);
/// Computes activation(norm(input)), with a fused kernel if one is available.
/// @param norm the norm
/// @param activation the function
/// @param input `[B, num_channels, ...]`
/// @return shape of input
Tensor norm_activate(const GroupNorm& norm, Activation activation, const Tensor& input);

/// Sets each element to zero with probability `p` and scales the others by 1 / (1 - p). Draws from the
/// device's global generator.
/// @param input any shape, floating
/// @param p probability in [0, 1]
/// @param training false: returns the input
/// @return shape of input
Tensor dropout(const Tensor& input, double p, bool training);

}  // namespace diffusers::layers
