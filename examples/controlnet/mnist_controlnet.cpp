// Trains a ControlNet on the edges of MNIST's digits, for the Stable Diffusion folder of mnist_text_to_image.
// Draws the test digits from their edges and captions, and compares the edges of the samples with the given
// ones.

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/pipelines/stable_diffusion_controlnet_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/training/controlnet_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>

#include "../program.h"
#include "../stoppable_preview.h"
#include "../text_to_image/mnist_captions.h"
#include "../text_to_image/mnist_flags.h"
#include "../text_to_image/mnist_pipeline.h"
#include "edges.h"

using namespace diffusers;

namespace {

constexpr int64_t kColumns = 10;       // of a grid of samples
constexpr int64_t kRows = 3;           // groups of rows in samples.png
constexpr int64_t kSampleBatch = 100;  // samples that are drawn at once

/// The flag that mnist_text_to_image does not have.
struct Settings {
  std::string pretrained_model_name_or_path = "out/mnist_text_to_image";
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--pretrained_model_name_or_path", &Settings::pretrained_model_name_or_path,
         "Stable Diffusion folder that mnist_text_to_image wrote."}}},
  };
  return table;
}

/// Defaults for two CPU cores.
DigitSettings default_settings() {
  DigitSettings settings;
  settings.eval_batch_size = 200;
  TrainingConfig& training = settings.training;
  training.output_dir = "out/mnist_controlnet";
  training.max_train_steps = 1500;
  training.learning_rate = 1e-3;
  training.lr_warmup_steps = 100;
  training.validation_steps = 500;
  return settings;
}

/// Draws samples for the captions and edges of a batch.
class Sampler {
 public:
  Sampler(const TextToImageModels& models, const ControlNetModel& controlnet, const DigitSettings& settings)
      : plain_(models.vae, models.text_encoder, models.tokenizer, models.unet, *models.scheduler),
        controlled_(StableDiffusionControlNetPipeline::from_pipe(
            plain_, {{"controlnet", PipelineComponent(controlnet)}})),
        settings_(settings) {
    plain_.set_progress_bar_config({.disable = true});
    controlled_.set_progress_bar_config({.disable = true});
  }

  /// Draws samples `[N, 1, H, W]` in [0, 1] with the ControlNet, with the seed 0.
  /// @throws PreviewStopped if `must_stop` returns true
  Tensor draw(const Batch& batch, const std::function<bool()>& must_stop = {}) {
    return in_batches(batch, [&](const Batch& part, const Generator& generator) {
      return controlled_({.prompt = part.captions,
                          .image = part.conditioning_images,
                          .num_inference_steps = settings_.num_inference_steps,
                          .guidance_scale = settings_.guidance_scale,
                          .generator = generator,
                          .callback_on_step_end = stop_sampling_if(must_stop)})
          .images;
    });
  }

  /// Draws samples with the same captions and noise, without the ControlNet.
  Tensor draw_without_edges(const Batch& batch) {
    return in_batches(batch, [&](const Batch& part, const Generator& generator) {
      return plain_({.prompt = part.captions,
                     .height = part.images.size(2),
                     .width = part.images.size(3),
                     .num_inference_steps = settings_.num_inference_steps,
                     .guidance_scale = settings_.guidance_scale,
                     .generator = generator})
          .images;
    });
  }

 private:
  template <class Draw>
  static Tensor in_batches(const Batch& batch, const Draw& draw_part) {
    const Generator generator = make_generator(0);
    std::vector<Tensor> images;
    for (int64_t first = 0; first < batch.size(); first += kSampleBatch) {
      const Batch part = batch.slice(first, std::min(first + kSampleBatch, batch.size()));
      images.push_back(draw_part(part, generator).to(at::kCPU, at::kFloat));
    }
    return at::cat(images);
  }

  StableDiffusionPipeline plain_;
  StableDiffusionControlNetPipeline controlled_;
  DigitSettings settings_;
};

/// Reads the first samples of a dataset.
Batch first_samples(const Dataset& data, int64_t count) {
  std::vector<int64_t> indices(static_cast<std::size_t>(std::min(count, data.size())));
  std::iota(indices.begin(), indices.end(), 0);
  return data.get_batch(indices);
}

Tensor edges_of(const Batch& batch) { return batch.conditioning_images.narrow(1, 0, 1); }

/// Draws samples.png: rows of edges, of samples with the ControlNet, and of samples without it.
void save_samples(const Tensor& edges, const Tensor& controlled, const Tensor& plain,
                  const std::string& path) {
  std::vector<Tensor> rows;
  const int64_t last = std::min(kRows * kColumns, edges.size(0));
  for (int64_t first = 0; first + kColumns <= last; first += kColumns)
    for (const Tensor& images : {edges, controlled, plain}) rows.push_back(images.narrow(0, first, kColumns));
  save_image_grid(at::cat(rows), path, {.columns = kColumns});
  std::printf("samples: %s, with rows of edges, of samples with the ControlNet and of samples without it\n",
              path.c_str());
}

/// Draws samples of test images and prints the F-scores of their edges. Those of the autoencoder's
/// reconstructions show how exact the latents are.
void evaluate(Sampler& sampler, const AutoencoderKL& vae, const Dataset& test,
              const DigitSettings& settings) {
  const at::NoGradGuard no_grad;
  const Batch batch = first_samples(test, settings.eval_batch_size);
  const Tensor edges = edges_of(batch);
  const Tensor controlled = sampler.draw(batch);
  const Tensor plain = sampler.draw_without_edges(batch);
  const Tensor reconstructed = vae->forward(batch.images.to(at::Device(settings.device))).sample.cpu();
  if (batch.size() >= kColumns)
    save_samples(edges, controlled, plain, join_path(settings.training.output_dir, "samples.png"));
  const auto score = [&](const Tensor& images) { return 100 * edge_f_score(edge_map(images), edges); };
  std::printf(
      "F-score of the edges of %lld test images, with a tolerance of one pixel:\n"
      "  samples with the ControlNet: %.1f %%\n"
      "  samples without the ControlNet: %.1f %%\n"
      "  reconstructions of the autoencoder: %.1f %%\n",
      static_cast<long long>(batch.size()), score(2 * controlled - 1), score(2 * plain - 1),
      score(reconstructed.clamp(-1, 1)));
}

int run(int argc, char** argv) {
  DigitSettings digits = default_settings();
  Settings settings;
  CLI::App app("Trains a ControlNet on the edges of MNIST's digits, and draws samples from edges");
  add_flags(app, flags(), settings);
  add_digit_flags(app, digits);
  add_empty_prompt_flag(app, digits);
  refuse_python_flags(app, argc, argv);
  parse_or_exit(app, argc, argv);
  complete_digit_settings(app, digits);

  const TextToImageModels models = load_digit_models(settings.pretrained_model_name_or_path, digits);
  TrainingConfig& training = digits.training;
  if (!training.resolution) training.resolution = models.vae->config().sample_size.values().front();
  const auto seed = static_cast<uint64_t>(training.seed.value_or(0));
  const auto open = [&](Split split) {
    return WithEdges(std::make_shared<CaptionedDigits>(open_padded_digits(digits, split), seed));
  };
  const WithEdges data = open(Split::kTrain);
  const WithEdges test = open(Split::kTest);
  manual_seed(seed);
  ControlNetModel controlnet = ControlNetTask::make_controlnet(models);
  controlnet->to(at::Device(digits.device));
  std::printf("ControlNetModel with %lld parameters on %s, %lld images\n",
              static_cast<long long>(controlnet->num_parameters()), digits.device.c_str(),
              static_cast<long long>(data.size()));

  Sampler sampler(models, controlnet, digits);
  Trainer trainer(std::make_shared<ControlNetTask>(
                      models, controlnet,
                      ControlNetTaskOptions{.proportion_empty_prompts = digits.proportion_empty_prompts}),
                  training);
  trainer.on_preview([&](const PreviewContext& at) {
    const Batch batch = first_samples(test, kColumns);
    const auto draw = [&] { return at::cat({edges_of(batch), sampler.draw(batch, at.stop_requested)}); };
    log_unless_stopped(at, "samples", draw, {.columns = batch.size()});
  });
  const TrainingResult result = trainer.train(data);
  if (const int code = exit_code(result); code != 0) return code;
  evaluate(sampler, models.vae, test, digits);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("mnist_controlnet", run, argc, argv); }
