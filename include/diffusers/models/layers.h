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

/// The layers that models are made of. They hold the parameters that torch.nn's layers of the same name hold
/// and draw their initial values as those do, so that a seed gives Python's weights bit for bit. Made here,
/// and not taken from `torch::nn`, so that a model which is about to be loaded need not be initialised first,
/// and so that its header compiles fast.
namespace diffusers::layers {

/// While one is alive, layers made by this thread leave their parameters uninitialised and draw no random
/// numbers.
class SkipInitGuard {
 public:
  SkipInitGuard();
  ~SkipInitGuard();
  SkipInitGuard(const SkipInitGuard&) = delete;
  SkipInitGuard& operator=(const SkipInitGuard&) = delete;
  static bool active();

 private:
  bool previous_;
};

/// y = x W^T + b
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(int64_t in_features, int64_t out_features, bool bias = true);
  Tensor forward(const Tensor& input) const;
  Tensor weight;  ///< `[out_features, in_features]`
  Tensor bias;    ///< `[out_features]`, undefined without bias
};
TORCH_MODULE(Linear);

struct Conv2dOptions {
  int64_t kernel_size = 3;
  int64_t stride = 1;
  int64_t padding = 0;
  bool bias = true;
};

/// A two-dimensional convolution with square kernel, equal strides and zero padding.
class Conv2dImpl : public torch::nn::Module {
 public:
  Conv2dImpl(int64_t in_channels, int64_t out_channels, const Conv2dOptions& options);
  Tensor forward(const Tensor& input) const;
  Tensor weight;  ///< `[out_channels, in_channels, kernel_size, kernel_size]`
  Tensor bias;    ///< `[out_channels]`, undefined without bias

 private:
  Conv2dOptions options_;
};
TORCH_MODULE(Conv2d);

/// Normalisation over groups of channels, with weight and bias for each channel (Wu and He 2018).
class GroupNormImpl : public torch::nn::Module {
 public:
  /// @throws ConfigError unless num_groups divides num_channels
  GroupNormImpl(int64_t num_groups, int64_t num_channels, double eps = 1e-5);
  Tensor forward(const Tensor& input) const;
  Tensor forward_silu(const Tensor& input) const;  ///< silu(forward(input)), fused where there is a kernel
  Tensor weight;
  Tensor bias;

 private:
  int64_t num_groups_;
  double eps_;
};
TORCH_MODULE(GroupNorm);

/// Normalisation over the last dimension (Ba et al. 2016).
class LayerNormImpl : public torch::nn::Module {
 public:
  explicit LayerNormImpl(int64_t size, double eps = 1e-5);
  Tensor forward(const Tensor& input) const;
  Tensor weight;
  Tensor bias;

 private:
  double eps_;
};
TORCH_MODULE(LayerNorm);

/// A table of vectors looked up by index.
class EmbeddingImpl : public torch::nn::Module {
 public:
  EmbeddingImpl(int64_t num_embeddings, int64_t embedding_dim);
  Tensor forward(const Tensor& indices) const;
  Tensor weight;  ///< `[num_embeddings, embedding_dim]`
};
TORCH_MODULE(Embedding);

/// Modules of one kind under the names "0", "1", ... (Python: `nn.ModuleList`).
template <class Pointer>
class ModuleVectorImpl : public torch::nn::Module {
 public:
  void push_back(Pointer module) {
    register_module(std::to_string(items_.size()), module);
    items_.push_back(std::move(module));
  }
  std::size_t size() const { return items_.size(); }
  bool empty() const { return items_.empty(); }
  const Pointer& operator[](std::size_t index) const { return items_[index]; }
  auto begin() const { return items_.begin(); }
  auto end() const { return items_.end(); }

 private:
  std::vector<Pointer> items_;
};
template <class Pointer>
using ModuleVector = std::shared_ptr<ModuleVectorImpl<Pointer>>;

/// The activation functions that configs can name in `act_fn`.
enum class Activation { kSilu, kMish, kGelu, kRelu };

/// Takes Python's names: "silu", "swish", "mish", "gelu", "relu", in any case.
/// @throws ConfigError naming the key, the value and the values that exist
Activation activation_from_name(std::string_view name, std::string_view key = "act_fn");
Tensor activate(Activation activation, const Tensor& input);
/// activation(norm(input))
Tensor norm_activate(const GroupNorm& norm, Activation activation, const Tensor& input);

/// Zeroes each element with probability `p` and scales the rest by 1 / (1 - p), in training only.
Tensor dropout(const Tensor& input, double p, bool training);

}  // namespace diffusers::layers
