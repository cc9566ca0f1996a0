// The C++ side of the exchange test.
//     interop_exchange save DIR     trains two steps, saves the pipeline, an input and the UNet's output
//     interop_exchange check DIR    opens what exchange.py saved, and compares the UNet's output
#include "exchange.h"

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/data/dataset.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/training/edm.h>
#include <diffusers/training/trainer.h>

#include <torch/torch.h>

using namespace diffusers;

namespace {

/// A dataset of gray gradients.
class Gradients : public Dataset {
 public:
  explicit Gradients(int64_t channels = 1) : channels_(channels) {}
  int64_t size() const override { return 8; }
  Batch get_batch(std::span<const int64_t> indices, uint64_t /*augmentation_seed*/) const override {
    std::vector<Tensor> images;
    for (const int64_t index : indices)
      images.push_back(torch::linspace(-1.0, 1.0 - 0.1 * static_cast<double>(index), 256)
                           .view({1, 16, 16})
                           .expand({channels_, 16, 16}));
    return {.images = torch::stack(images)};
  }

 private:
  int64_t channels_;
};

UNet2DModel small_unet(int64_t channels = 1) {
  return UNet2DModel({.sample_size = 16,
                      .in_channels = channels,
                      .out_channels = channels,
                      .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                      .block_out_channels = {8, 16},
                      .layers_per_block = 1,
                      .attention_head_dim = 4,
                      .norm_num_groups = 4});
}

TrainingConfig two_steps(const std::filesystem::path& folder) {
  return {.output_dir = folder.string(),
          .seed = 0,
          .train_batch_size = 4,
          .max_train_steps = 2,
          .progress_bar = false};
}

/// Trains with EDMTask and samples from the output folder. Python's pipeline accepts given noise only for
/// three channels.
TensorMap save_edm(const std::filesystem::path& folder) {
  UNet2DModel unet = small_unet(3);
  const auto task =
      std::make_shared<EDMTask>(unet, EDMConfig{.sigma_data = 0.7, .sigma_min = 0.01, .sigma_max = 50.0});
  Trainer(task, two_steps(folder)).train(Gradients(3));
  const torch::NoGradGuard no_grad;
  EDMEulerScheduler scheduler = EDMEulerScheduler::from_pretrained(folder / "scheduler");
  scheduler.set_timesteps(4);
  const Tensor noise = torch::randn({2, 3, 16, 16});
  Tensor x = noise * scheduler.init_noise_sigma();
  for (const Tensor& t : scheduler.timesteps())
    x = scheduler.step(unet->forward(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample;
  return {{"edm_noise", noise}, {"edm_images", (x / 2 + 0.5).clamp(0, 1)}};
}

void save(const std::filesystem::path& folder) {
  manual_seed(0);
  UNet2DModel unet = small_unet();
  const DDPMScheduler scheduler({.prediction_type = PredictionType::kVPrediction});
  Trainer(unet, scheduler, two_steps(folder / "training")).train(Gradients());
  DDPMPipeline(unet, scheduler).save_pretrained(folder / "pipeline");

  const torch::NoGradGuard no_grad;
  unet->eval();
  const Tensor sample = torch::randn({3, 1, 16, 16});
  const Tensor noise = torch::randn({3, 1, 16, 16});
  const Tensor timesteps = torch::tensor({0, 500, 999}, torch::kLong);
  TensorMap tensors = {{"sample", sample},
                       {"timesteps", timesteps},
                       {"output", unet->forward(sample, timesteps).sample},
                       {"noise", noise},
                       {"noisy", scheduler.add_noise(sample, noise, timesteps)}};
  for (const auto& [name, tensor] : save_edm(folder / "edm")) tensors.insert(name, tensor);
  save_safetensors(tensors, (folder / "exchange.safetensors").string(), {{"format", "pt"}});
}

bool check(const std::filesystem::path& folder) {
  DDPMPipeline pipeline = DDPMPipeline::from_pretrained(folder / "pipeline");
  const TensorMap tensors = load_safetensors((folder / "exchange.safetensors").string());
  const torch::NoGradGuard no_grad;
  const Tensor output = pipeline.unet()->forward(tensors.at("sample"), tensors.at("timesteps")).sample;
  const Tensor noisy =
      pipeline.scheduler().add_noise(tensors.at("sample"), tensors.at("noise"), tensors.at("timesteps"));
  const bool same_output = test::close("output", output, tensors.at("output"), 1e-4);
  return test::close("noisy", noisy, tensors.at("noisy"), 1e-5) && same_output;
}

}  // namespace

int main(int argc, char** argv) { return test::save_or_check(argc, argv, "interop_exchange", save, check); }
