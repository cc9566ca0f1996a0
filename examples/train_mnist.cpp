// Trains a diffusion model on MNIST (or Fashion-MNIST, or a folder of pictures), draws samples and says how
// good they are. The flags are those of diffusers' train_unconditional.py. With --class_conditional it trains
// with labels, for classifier-free guidance.

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include <diffusers/diffusers.h>

#include "evaluation.h"
#include "guidance.h"
#include "program.h"
#include "train_data.h"
#include "train_flags.h"

using namespace diffusers;

namespace {

/// Thrown out of a preview that the end of the training does not wait for.
struct PreviewStopped {};

/// Classifies samples at several guidance scales with the classifier of `evaluation.h`.
/// @param sample draws a picture for each label, at a guidance scale
void evaluate_guidance(const std::function<Tensor(double)>& sample, const Tensor& labels,
                       const TrainingData& data, const std::string& out) {
  std::vector<GuidanceResult> results;
  for (const double scale : {1.0, 2.0, 3.0, 4.0})
    results.push_back({scale, evaluate_samples(sample(scale), *data.train, *data.held_out, data.num_classes,
                                               out + "classifier.safetensors", labels)});
  print_guidance_results(results, labels.size(0));
  save_guidance_chart(results, out + "guidance.svg");
}

int run(int argc, char** argv) {
  Settings settings = parse_flags(argc, argv);
  const std::string out = settings.training.output_dir + "/";

  manual_seed(static_cast<uint64_t>(settings.training.seed.value_or(0)));
  const TrainingData data = open_data(settings);
  fit_model(settings, data);
  UNet2DModel unet(settings.model);
  unet->to(settings.device);
  const DDPMScheduler scheduler(settings.scheduler);
  std::printf("UNet2DModel with %lld parameters on %s, %lld images\n",
              static_cast<long long>(unet->num_parameters()), settings.device.str().c_str(),
              static_cast<long long>(data.train->size()));

  const bool has_classes = settings.is_class_conditional();
  // A picture shows a class in each column, but no more than fit.
  const int64_t columns = has_classes ? std::min<int64_t>(data.num_classes, 10) : 4;
  const auto labels = [&](int64_t count, int64_t num_classes) {
    return has_classes ? labels_by_column(count, num_classes, settings.device) : Tensor();
  };
  const auto sample = [&](const Tensor& classes, int64_t count, int64_t steps, double guidance_scale,
                          const std::function<bool()>& must_stop = {}) {
    unet->eval();
    const Generator generator = make_generator(0);
    const int64_t channels = settings.model.in_channels, side = *settings.training.resolution;
    DDIMScheduler ddim = DDIMScheduler::from_config(scheduler.config_json());
    ddim.set_timesteps(steps, {.device = settings.device});
    const Tensor noise = randn_tensor({count, channels, side, side}, generator, settings.device);
    const SamplingModel model = guided_model(unet, classes, guidance_scale);
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
  Trainer trainer(unet, scheduler, settings.training, settings.task);
  const int64_t preview_steps = std::min<int64_t>(20, scheduler.num_train_timesteps());
  trainer.on_preview([&](const PreviewContext& at) {
    const int64_t count = has_classes ? 2 * columns : 16;
    try {
      at.log_images(
          "step",
          sample(labels(count, columns), count, preview_steps, settings.guidance_scale, at.stop_requested),
          {.columns = columns});
    } catch (const PreviewStopped&) {
      return;  // the training has a checkpoint to save
    }
  });
  const TrainingResult result =
      data.held_out ? trainer.train(*data.train, *data.held_out) : trainer.train(*data.train);
  if (!result.is_complete || result.signal) return 128 + result.signal.value_or(0);

  const std::string picture = out + "samples.png";
  const int64_t count = settings.eval_batch_size, steps = settings.num_inference_steps;
  if (has_classes) {
    const Tensor shown = labels(8 * columns, columns);
    save_image_grid(sample(shown, 8 * columns, steps, settings.guidance_scale), picture,
                    {.columns = columns});
    std::printf("samples, a column a class: %s\n", picture.c_str());
    const Tensor all = labels(count, data.num_classes);
    if (data.held_out)
      evaluate_guidance([&](double scale) { return sample(all, count, steps, scale); }, all, data, out);
    return 0;
  }

  const Tensor images = sample({}, count, steps, settings.guidance_scale);
  save_image_grid(images.slice(0, 0, 64), picture, {.columns = 8});
  std::printf("samples: %s\n", picture.c_str());
  if (data.held_out)
    print_evaluation(evaluate_samples(images, *data.train, *data.held_out, data.num_classes,
                                      out + "classifier.safetensors"),
                     images.size(0));
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_mnist", run, argc, argv); }
