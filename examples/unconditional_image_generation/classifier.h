#pragma once

// A small classifier, which the programs train on the labels of a dataset.

#include <cstdint>
#include <string>
#include <vector>

#include <diffusers/data/dataset.h>

#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

/// Two convolutions, 64 features, a linear layer.
struct ClassifierImpl : torch::nn::Module {
  explicit ClassifierImpl(int64_t num_classes, int64_t channels = 1);
  /// @param images `[B, channels, H, W]` in [-1, 1]
  /// @return outputs of the convolutions, `[B, 16, H, W]` and `[B, 32, H / 2, W / 2]`
  std::vector<torch::Tensor> feature_maps(const torch::Tensor& images);
  torch::Tensor features(const torch::Tensor& images);  // [B, 64]
  torch::Tensor forward(const torch::Tensor& images) { return output(features(images)); }

  torch::nn::Conv2d conv1, conv2;
  torch::nn::Linear hidden, output;
};
TORCH_MODULE(Classifier);

/// Settings of `trained_classifier`.
struct ClassifierSettings {
  int64_t num_classes = 10;
  int64_t channels = 1;
  std::string cache_file = {};      ///< safetensors file
  std::string purpose = {};         ///< end of the line that is printed: "training the classifier that ..."
  torch::Device device = at::kCPU;  ///< device of the training and of the result
};

/// Reads the classifier from the file. If the file is missing or has another number of classes or channels,
/// the classifier is trained for two epochs, with the seed 0, and written. The state of the random numbers is
/// as before.
Classifier trained_classifier(const diffusers::Dataset& data, const ClassifierSettings& settings);
