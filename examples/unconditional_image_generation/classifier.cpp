#include "classifier.h"

#include <cstdio>

#include <diffusers/core/random.h>
#include <diffusers/data/loader.h>
#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/training/lr_scheduler.h>
#include <diffusers/training/optimizer.h>

#include <ATen/CPUGeneratorImpl.h>
#include <torch/nn/functional/loss.h>

using namespace diffusers;

namespace {

constexpr int64_t kEpochs = 2;

/// Restores the state of the random numbers.
class KeptRandomState {
 public:
  KeptRandomState() : state_(at::detail::getDefaultCPUGenerator().get_state()) {}
  KeptRandomState(const KeptRandomState&) = delete;
  KeptRandomState& operator=(const KeptRandomState&) = delete;
  ~KeptRandomState() { at::Generator(at::detail::getDefaultCPUGenerator()).set_state(state_); }

 private:
  torch::Tensor state_;
};

void train_classifier(Classifier& model, const Dataset& data, const ClassifierSettings& settings) {
  DataLoader loader(data, {.batch_size = 100, .shuffle = true});
  const int64_t steps = kEpochs * loader.size();
  Optimizer optimizer(model->parameters(), {.lr = 2e-3});
  const LRSchedule lr =
      get_scheduler("cosine", {.num_warmup_steps = steps / 20, .num_training_steps = steps});
  std::printf("training the classifier %s: %lld steps\n", settings.purpose.c_str(),
              static_cast<long long>(steps));
  int64_t step = 0;
  for (int64_t epoch = 0; epoch < kEpochs; ++epoch) {
    for (const Batch& loaded : loader) {
      const Batch batch = loaded.to(settings.device);
      optimizer.zero_grad();
      torch::nn::functional::cross_entropy(model(batch.images), batch.class_labels).backward();
      optimizer.step(lr(step++));
    }
  }
}

/// Loads the classifier from a file.
/// @return false if there is no file, or if it has another number of classes or channels
bool load_classifier(Classifier& model, const std::string& path) {
  if (!file_exists(path)) return false;
  const torch::NoGradGuard no_grad;
  const TensorMap saved = load_safetensors(path);
  for (const auto& item : model->named_parameters())
    if (!saved.contains(item.key()) || saved.at(item.key()).sizes() != item.value().sizes()) return false;
  for (auto& item : model->named_parameters()) item.value().copy_(saved.at(item.key()));
  return true;
}

}  // namespace

ClassifierImpl::ClassifierImpl(int64_t num_classes, int64_t channels)
    : conv1(torch::nn::Conv2dOptions(channels, 16, 3).padding(1)),
      conv2(torch::nn::Conv2dOptions(16, 32, 3).padding(1)),
      hidden(32 * 7 * 7, 64),
      output(64, num_classes) {
  register_module("conv1", conv1);
  register_module("conv2", conv2);
  register_module("hidden", hidden);
  register_module("output", output);
}

std::vector<torch::Tensor> ClassifierImpl::feature_maps(const torch::Tensor& images) {
  const torch::Tensor first = torch::relu(conv1(images));
  return {first, torch::relu(conv2(torch::max_pool2d(first, 2)))};
}

torch::Tensor ClassifierImpl::features(const torch::Tensor& images) {
  const torch::Tensor x =
      torch::adaptive_avg_pool2d(torch::max_pool2d(feature_maps(images).back(), 2), {7, 7});
  return torch::relu(hidden(x.flatten(1)));
}

Classifier trained_classifier(const Dataset& data, const ClassifierSettings& settings) {
  const KeptRandomState kept;
  manual_seed(0);  // the same classifier for any random state
  Classifier model(settings.num_classes, settings.channels);
  const bool is_loaded = load_classifier(model, settings.cache_file);
  model->to(settings.device);
  if (!is_loaded) {
    train_classifier(model, data, settings);
    save_safetensors(model->named_parameters(), settings.cache_file);
  }
  return model;
}
