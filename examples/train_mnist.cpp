// Trains a diffusion model on MNIST (or Fashion-MNIST, or a folder of pictures), draws samples and says how
// good they are. The flags are those of diffusers' train_unconditional.py.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <memory>

#include <diffusers/diffusers.h>

#include "evaluation.h"
#include "train_flags.h"

using namespace diffusers;

namespace {

std::unique_ptr<Dataset> open_dataset(const Settings& settings, Split split) {
  const int64_t resolution = *settings.training.resolution;
  if (settings.is_idx())
    return std::make_unique<MnistDataset>(
        settings.data_folder(),
        MnistDatasetOptions{.split = split, .resolution = resolution, .random_flip = settings.random_flip});
  return std::make_unique<ImageFolder>(settings.dataset,
                                       ImageFolderOptions{.resolution = resolution,
                                                          .center_crop = settings.center_crop,
                                                          .random_flip = settings.random_flip});
}

/// Thrown out of a preview that the end of the training does not wait for.
struct PreviewStopped {};

}  // namespace

int main(int argc, char** argv) try {
  const Settings settings = parse_flags(argc, argv);
  const std::string out = settings.training.output_dir + "/";

  manual_seed(static_cast<uint64_t>(settings.training.seed.value_or(0)));
  const std::unique_ptr<Dataset> data = open_dataset(settings, Split::kTrain);
  UNet2DModel unet(settings.model);
  unet->to(settings.device);
  const DDPMScheduler scheduler(settings.scheduler);
  std::printf("UNet2DModel with %lld parameters on %s, %lld images\n",
              static_cast<long long>(unet->num_parameters()), settings.device.str().c_str(),
              static_cast<long long>(data->size()));

  const auto sample = [&](int64_t count, int64_t steps, const std::function<bool()>& must_stop = {}) {
    unet->eval();
    const Generator generator = make_generator(0);
    const int64_t channels = settings.model.in_channels, side = *settings.training.resolution;
    DDIMScheduler ddim = DDIMScheduler::from_config(scheduler.config_json());
    ddim.set_timesteps(steps, {.device = settings.device});
    const Tensor noise = randn_tensor({count, channels, side, side}, generator, settings.device);
    const Tensor images = sampling_loop(
        ddim,
        [&](const Tensor& x, const Tensor& t) {
          if (must_stop && must_stop()) throw PreviewStopped();
          return unet->forward(x, t).sample;
        },
        noise, {.step = {.eta = settings.eta, .generator = generator}, .temperature = settings.temperature});
    return (images / 2 + 0.5).clamp(0, 1);
  };
  create_folders(out + "previews");
  Trainer trainer(unet, scheduler, settings.training);
  trainer.on_preview([&](const PreviewContext& at) {
    try {
      save_image_grid(sample(16, 20, at.stop_requested),
                      out + "previews/step-" + std::to_string(at.step) + ".png", {.columns = 4});
    } catch (const PreviewStopped&) {
      return;  // the training has a checkpoint to save
    }
  });
  const TrainingResult result = trainer.train(*data);
  if (!result.is_complete) return 128 + result.signal.value_or(0);

  const Tensor images = sample(settings.eval_batch_size, settings.num_inference_steps);
  save_image_grid(images.slice(0, 0, 64), out + "samples.png", {.columns = 8});
  std::printf("samples: %ssamples.png\n", out.c_str());

  if (settings.is_idx()) {
    const Evaluation evaluation = evaluate_samples(images, *data, *open_dataset(settings, Split::kTest),
                                                   out + "classifier.safetensors");
    print_evaluation(evaluation, images.size(0));
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "train_mnist: %s\n", error.what());
  return 1;
}
