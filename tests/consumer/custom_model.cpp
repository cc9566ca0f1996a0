// A model class that a program defines: registered, trained with the Trainer, saved, and loaded by its name.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <utility>

#include <diffusers/data/dataset.h>
#include <diffusers/models/register_model.h>
#include <diffusers/models/state_dict.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <torch/nn/modules/conv.h>
#include <torch/types.h>

namespace {

using namespace diffusers;

struct TinyConfig {
  int64_t in_channels = 1;
  int64_t hidden = 4;
  double dropout = 0.0;
};

void visit_fields(TinyConfig& config, ConfigVisitor& visit) {
  visit("in_channels", config.in_channels);
  visit("hidden", config.hidden);
  visit("dropout", config.dropout);
}

class TinyImpl : public ModelImpl<TinyImpl, TinyConfig> {
 public:
  static constexpr std::string_view kClassName = "Tiny";

  explicit TinyImpl(TinyConfig config = {}) : ModelImpl(std::move(config)) { reset(); }
  void reset() override {
    // One layer of torch::nn and one of the library.
    conv_in = register_module(
        "conv_in",
        torch::nn::Conv2d(torch::nn::Conv2dOptions(config().in_channels, config().hidden, 3).padding(1)));
    conv_out = register_module("conv_out", layers::Conv2d(config().hidden, config().in_channels,
                                                          layers::Conv2dOptions{.padding = 1}));
  }
  Tensor forward(const Tensor& sample, const Tensor& timesteps) {
    const Tensor times = timesteps.to(sample.scalar_type()).view({-1, 1, 1, 1}) / 1000;
    return conv_out->forward(torch::silu(conv_in->forward(sample) + times));
  }

  torch::nn::Conv2d conv_in{nullptr};
  layers::Conv2d conv_out{nullptr};
};
using Tiny = ModelHolder<TinyImpl, TinyConfig>;

/// A dataset of gray images.
class Pictures : public Dataset {
 public:
  int64_t size() const override { return 4; }
  Batch get_batch(std::span<const int64_t> indices, uint64_t /*augmentation_seed*/) const override {
    return {.images = torch::full({static_cast<int64_t>(indices.size()), 1, 8, 8}, 0.5)};
  }
};

}  // namespace

int main() {
  register_model<Tiny>();
  const std::filesystem::path folder = "custom-model-scratch";
  std::filesystem::remove_all(folder);

  Tiny model({.hidden = 6});
  const Tensor before = state_dict(model)["conv_in.weight"].clone();
  Trainer trainer(model, DDPMScheduler({.num_train_timesteps = 50}),
                  {.output_dir = folder.string(), .seed = 0, .train_batch_size = 2, .max_train_steps = 2});
  trainer.train(Pictures());
  const bool has_learned = !torch::equal(state_dict(model)["conv_in.weight"], before);

  const Tiny loaded = Tiny::from_pretrained(folder, {.subfolder = "unet"});
  const std::shared_ptr<torch::nn::Module> by_name = AutoModel::from_pretrained(folder / "unet");
  bool is_same = loaded->config().hidden == 6 && by_name->as<TinyImpl>() != nullptr;
  for (const auto& [name, tensor] : state_dict(model))
    is_same = is_same && torch::equal(state_dict(loaded)[name], tensor) &&
              torch::equal(state_dict(by_name)[name], tensor);

  bool is_listed = false;
  for (const auto& name : registered_models()) is_listed = is_listed || name == "Tiny";
  std::printf("trained, saved and loaded a %s of %lld parameters\n",
              Tiny::ContainedType::class_name().c_str(), static_cast<long long>(loaded->num_parameters()));
  std::filesystem::remove_all(folder);
  return has_learned && is_same && is_listed ? 0 : 1;
}
