// Trains a diffusion model on MNIST (or Fashion-MNIST, or a folder of pictures), draws samples and says how
// good they are. The flags are those of diffusers' train_unconditional.py. With --class_conditional it trains
// with labels, for classifier-free guidance.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include <diffusers/diffusers.h>

#include "evaluation.h"
#include "guidance.h"
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

  const int64_t num_classes = 10;
  const bool has_classes = settings.is_class_conditional();
  const auto labels = [&](int64_t count) {
    return has_classes ? labels_by_column(count, num_classes, settings.device) : Tensor();
  };
  const auto sample = [&](int64_t count, int64_t steps, double guidance_scale,
                          const std::function<bool()>& must_stop = {}) {
    unet->eval();
    const Generator generator = make_generator(0);
    const int64_t channels = settings.model.in_channels, side = *settings.training.resolution;
    DDIMScheduler ddim = DDIMScheduler::from_config(scheduler.config_json());
    ddim.set_timesteps(steps, {.device = settings.device});
    const Tensor noise = randn_tensor({count, channels, side, side}, generator, settings.device);
    const SamplingModel model = guided_model(unet, labels(count), guidance_scale);
    const Tensor images = sampling_loop(
        ddim,
        [&](const Tensor& x, const Tensor& t) {
          if (must_stop && must_stop()) throw PreviewStopped();
          return model(x, t);
        },
        noise,
        // Guidance predicts pixels far beyond white. Where they are clipped, their noise must be theirs, or
        // the steps lead away from the class that was asked for.
        {.step = {.eta = settings.eta, .use_clipped_model_output = has_classes, .generator = generator},
         .temperature = settings.temperature});
    return (images / 2 + 0.5).clamp(0, 1);
  };
  Trainer trainer(unet, scheduler, settings.training);
  trainer.on_preview([&](const PreviewContext& at) {
    try {
      at.log_images("step", sample(has_classes ? 20 : 16, 20, settings.guidance_scale, at.stop_requested),
                    {.columns = has_classes ? num_classes : 4});
    } catch (const PreviewStopped&) {
      return;  // the training has a checkpoint to save
    }
  });
  const std::unique_ptr<Dataset> held_out =
      settings.is_idx() ? open_dataset(settings, Split::kTest) : nullptr;
  const TrainingResult result = held_out ? trainer.train(*data, *held_out) : trainer.train(*data);
  if (!result.is_complete) return 128 + result.signal.value_or(0);

  const std::string picture = out + "samples.png";
  const std::string judge = out + "classifier.safetensors";
  const int64_t count = settings.eval_batch_size, steps = settings.num_inference_steps;
  if (has_classes) {
    save_image_grid(sample(8 * num_classes, steps, settings.guidance_scale), picture,
                    {.columns = num_classes});
    std::printf("samples, a column a class: %s\n", picture.c_str());
    std::vector<GuidanceResult> results;
    for (const double scale : {1.0, 2.0, 3.0, 4.0})
      results.push_back(
          {scale, evaluate_samples(sample(count, steps, scale), *data, *held_out, judge, labels(count))});
    print_guidance_results(results, count);
    save_guidance_chart(results, out + "guidance.svg");
    return 0;
  }

  const Tensor images = sample(count, steps, settings.guidance_scale);
  save_image_grid(images.slice(0, 0, 64), picture, {.columns = 8});
  std::printf("samples: %s\n", picture.c_str());
  if (settings.is_idx()) print_evaluation(evaluate_samples(images, *data, *held_out, judge), images.size(0));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "train_mnist: %s\n", error.what());
  return 1;
}
