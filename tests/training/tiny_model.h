#pragma once

// Small denoisers and datasets for tests of training.

#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/dataset.h>
#include <diffusers/models/denoiser.h>

#include <ATen/ATen.h>
#include <torch/nn/functional/activation.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

namespace diffusers::test {

/// The TinyNet of tests/reference/training.py. With `dropout`, its forward also draws random numbers.
struct TinyNetImpl : torch::nn::Module {
  explicit TinyNetImpl(double dropout = 0.0) : torch::nn::Module("TinyNet") {
    conv_in = register_module("conv_in", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 4, 3).padding(1)));
    time = register_module("time", torch::nn::Linear(1, 4));
    conv_out = register_module("conv_out", torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 1, 3).padding(1)));
    drop = register_module("drop", torch::nn::Dropout(dropout));
  }
  Tensor forward(const Tensor& sample, const Tensor& timesteps) {
    const Tensor embedding = time((timesteps.to(sample.scalar_type()) / 1000).unsqueeze(1));
    return conv_out(drop(at::silu(conv_in(sample) + embedding.unsqueeze(2).unsqueeze(3))));
  }
  torch::nn::Conv2d conv_in{nullptr}, conv_out{nullptr};
  torch::nn::Linear time{nullptr};
  torch::nn::Dropout drop{nullptr};
};
TORCH_MODULE(TinyNet);

struct LabelOptions {
  Tensor class_labels = {};
};
struct LabelOutput {
  Tensor sample;
};

/// A denoiser that takes class labels like UNet2DModel and records the last labels.
struct LabelledNetImpl : torch::nn::Module {
  LabelledNetImpl() {
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 1, 3).padding(1)));
    table = register_module("table", torch::nn::Embedding(11, 1));
  }
  DenoiserInfo denoiser_info() const { return facts; }
  LabelOutput forward(const Tensor& sample, const Tensor&, const LabelOptions& options = {}) {
    const Tensor& labels = options.class_labels;
    {
      const std::lock_guard lock(mutex);  // several threads compute the parts of a batch
      last_labels = labels;
    }
    Tensor out = conv(sample);
    if (labels.defined()) out = out + table(labels).view({-1, 1, 1, 1});
    return {out};
  }
  torch::nn::Conv2d conv{nullptr};
  torch::nn::Embedding table{nullptr};
  std::mutex mutex;
  Tensor last_labels;
  DenoiserInfo facts{.takes_class_labels = true};
};
TORCH_MODULE(LabelledNet);

/// A dataset of different images that are the same in each run.
class TinyImages : public Dataset {
 public:
  explicit TinyImages(int64_t size, bool has_labels = false, int64_t side = 6) : has_labels_(has_labels) {
    images_ = at::linspace(-1, 1, size * side * side, at::kFloat).mul(37.0).sin().view({size, 1, side, side});
  }
  int64_t size() const override { return images_.size(0); }
  Batch get_batch(std::span<const int64_t> indices, uint64_t) const override {
    const Tensor index = at::tensor(std::vector<int64_t>(indices.begin(), indices.end()), at::kLong);
    Batch batch;
    batch.images = images_.index_select(0, index);
    if (has_labels_) batch.class_labels = index.remainder(10);
    return batch;
  }
  Tensor& images() { return images_; }

 private:
  Tensor images_;
  bool has_labels_;
};

/// Images of two sizes, 6 x 6 and 6 x 10, in two buckets.
class BucketedImages : public Dataset {
 public:
  explicit BucketedImages(int64_t size) : square_(size), wide_(size, /*has_labels=*/false, /*side=*/10) {}
  int64_t size() const override { return square_.size(); }
  std::vector<int64_t> buckets() const override {
    std::vector<int64_t> buckets;
    for (int64_t i = 0; i < size(); ++i) buckets.push_back(i % 3 == 1 ? 1 : 0);
    return buckets;
  }
  Batch get_batch(std::span<const int64_t> indices, uint64_t seed) const override {
    const bool is_wide = indices.front() % 3 == 1;
    for (const int64_t index : indices)
      if ((index % 3 == 1) != is_wide) throw Error("samples of two buckets in one batch");
    if (!is_wide) return square_.get_batch(indices, seed);
    return {.images = wide_.get_batch(indices, seed).images.slice(2, 0, 6)};
  }

 private:
  TinyImages square_, wide_;
};

}  // namespace diffusers::test
