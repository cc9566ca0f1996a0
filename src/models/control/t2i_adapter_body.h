#pragma once

// The network inside a T2IAdapter.

#include <cstdint>
#include <memory>
#include <vector>

#include <diffusers/models/layers.h>
#include <diffusers/models/t2i_adapter.h>

namespace diffusers {
inline namespace internal {

/// AdapterResnetBlock, or LightAdapterResnetBlock with two 3x3 convolutions.
class AdapterResnetImpl : public torch::nn::Module {
 public:
  AdapterResnetImpl(int64_t channels, bool light);
  Tensor forward(const Tensor& x) const;

 private:
  layers::Conv2d block1_{nullptr};
  layers::Conv2d block2_{nullptr};
};
TORCH_MODULE(AdapterResnet);

struct AdapterBlockOptions {
  int64_t in_channels;
  int64_t out_channels;
  int64_t num_res_blocks;
  bool down;   ///< halve the resolution first
  bool light;  ///< use residual blocks with a quarter of the channels
};

/// AdapterBlock or LightAdapterBlock.
class AdapterBlockImpl : public torch::nn::Module {
 public:
  explicit AdapterBlockImpl(const AdapterBlockOptions& options);
  Tensor forward(const Tensor& x) const;

 private:
  bool down_;
  layers::Conv2d in_conv_{nullptr};
  layers::ModuleVector<AdapterResnet> resnets_;
  layers::Conv2d out_conv_{nullptr};
};
TORCH_MODULE(AdapterBlock);

/// FullAdapter, FullAdapterXL or LightAdapter.
class T2IAdapterBody : public torch::nn::Module {
 public:
  explicit T2IAdapterBody(const T2IAdapterConfig& config);
  std::vector<Tensor> forward(const Tensor& x) const;
  int64_t total_downscale_factor() const { return total_downscale_factor_; }

 private:
  int64_t downscale_factor_;
  int64_t total_downscale_factor_ = 0;
  layers::Conv2d conv_in_{nullptr};
  layers::ModuleVector<AdapterBlock> blocks_;
};

}  // namespace internal
}  // namespace diffusers
