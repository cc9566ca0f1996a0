#pragma once

#include <ostream>

#include <diffusers/core/tensor.h>

#include <torch/nn/modules/batchnorm.h>

namespace diffusers {

/// Batch normalisation of images with the mean and the variance of the whole batch, also where a Trainer
/// trains on several processes (Python: `torch.nn.SyncBatchNorm`). In one process, and in eval mode, it
/// computes what `torch::nn::BatchNorm2d` computes, bit for bit. Parameters and buffers have the same names.
///
/// A model with `torch::nn::BatchNorm2d` in place of it is trained by one process only.
class SyncBatchNorm2dImpl : public torch::nn::BatchNormImplBase<2, SyncBatchNorm2dImpl> {
 public:
  /// Makes a norm from `torch::nn::BatchNormOptions`, or from the number of channels.
  using torch::nn::BatchNormImplBase<2, SyncBatchNorm2dImpl>::BatchNormImplBase;

  /// Normalises each channel. In train mode the running statistics move towards those of the batch; all
  /// processes get the same ones.
  /// @param input `[B, C, H, W]`, the samples of this process
  /// @return shape and dtype of input
  /// @throws TensorError if the shape does not fit, or if the whole batch has one value in each channel
  /// @throws Error if a process has ended or does not answer within the timeout of its ProcessGroup
  Tensor forward(const Tensor& input);
  /// Prints the name and the options.
  /// @param stream receives the text
  void pretty_print(std::ostream& stream) const override;

 protected:
  /// Checks an input.
  /// @throws TensorError if it is not `[B, num_features, H, W]`
  void _check_input_dim(const Tensor& input) override;

 private:
  void update_running_statistics(const Tensor& count, const Tensor& mean, const Tensor& variance);
};
/// A handle of a `SyncBatchNorm2dImpl`: `SyncBatchNorm2d norm(64);`
TORCH_MODULE(SyncBatchNorm2d);

}  // namespace diffusers
