// Trains text to image on MNIST with new weights: an autoencoder, then a UNet and a text encoder on its
// latents. Writes a Stable Diffusion folder, draws samples for prompts, and classifies the samples.

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/training/text_to_image_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>

#include "../program.h"
#include "../stoppable_preview.h"
#include "../unconditional_image_generation/evaluation.h"
#include "mnist_captions.h"
#include "mnist_flags.h"
#include "mnist_models.h"
#include "mnist_pipeline.h"

using namespace diffusers;

namespace {

constexpr int64_t kColumns = 10;         // of a grid of samples: the digits
constexpr int64_t kPreviewSamples = 20;  // samples of a preview

/// The flags that the other programs for MNIST do not have.
struct Settings {
  std::string vae = {};
  int64_t vae_train_steps = 1500;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--vae",
         &Settings::vae,
         "Folder of a trained autoencoder.",
         {.default_text = "a new one, written to autoencoder/ in --output_dir"}},
        {"--vae_train_steps",
         &Settings::vae_train_steps,
         "Number of optimizer steps of the autoencoder's training.",
         {.check = at_least(1)}}}},
  };
  return table;
}

/// Defaults for two CPU cores.
DigitSettings default_settings() {
  DigitSettings settings;
  TrainingConfig& training = settings.training;
  training.output_dir = "out/mnist_text_to_image";
  training.resolution = 32;
  training.max_train_steps = 3000;
  training.learning_rate = 2e-3;
  training.lr_warmup_steps = 200;
  training.use_ema = true;
  training.validation_steps = 500;
  return settings;
}

uint64_t seed_of(const DigitSettings& settings) {
  return static_cast<uint64_t>(settings.training.seed.value_or(0));
}

AutoencoderKL load_autoencoder(const std::string& folder, const UNet2DConditionModelConfig& unet,
                               const DigitSettings& settings) {
  AutoencoderKL vae = AutoencoderKL::from_pretrained(folder, {.device = at::Device(settings.device)});
  const int64_t side =
      *settings.training.resolution / (int64_t{1} << (vae->config().block_out_channels.size() - 1));
  if (vae->config().in_channels != 1 || side != unet.sample_size.values().front())
    throw ConfigError("--vae: " + folder + " has in_channels " + std::to_string(vae->config().in_channels) +
                      " and latents of side " + std::to_string(side) + ", expected in_channels 1 and side " +
                      std::to_string(unet.sample_size.values().front()));
  return vae;
}

/// Trains the autoencoder, unless a folder is given or a training is resumed that has one.
/// @return exit code of the program if the training was stopped
int prepare_autoencoder(const Settings& settings, const DigitSettings& digits, const CaptionedDigits& data,
                        TextToImageModels& models) {
  TrainingConfig config = autoencoder_config(digits.training, settings.vae_train_steps);
  std::string folder = settings.vae;
  if (folder.empty() && digits.training.resume_from_checkpoint) {
    const std::string trained = join_path(config.output_dir, "vae");
    if (file_exists(join_path(trained, "config.json"))) {
      folder = trained;
    } else {
      config.resume_from_checkpoint = "latest";
    }
  }
  if (folder.empty()) {
    std::printf("autoencoder: %lld steps\n", static_cast<long long>(settings.vae_train_steps));
    const TrainingResult result = train_digit_autoencoder(models.vae, config, data);
    if (const int code = exit_code(result); code != 0) return code;
  } else {
    models.vae = load_autoencoder(folder, models.unet->config(), digits);
  }
  models.vae = with_measured_scale(models.vae, data, seed_of(digits));
  return 0;
}

/// Draws a sample `[N, 1, H, W]` in [0, 1] for each prompt, with the seed 0.
/// @throws PreviewStopped if `must_stop` returns true
Tensor draw(const TextToImageModels& models, const std::vector<DigitPrompt>& prompts,
            const DigitSettings& settings, const std::function<bool()>& must_stop = {}) {
  std::vector<std::string> texts;
  texts.reserve(prompts.size());
  for (const DigitPrompt& prompt : prompts) texts.push_back(prompt.text);
  return draw_digits(models, texts, settings, {.stop_requested = must_stop});
}

/// Draws samples.png, with a digit in each column and a phrasing in each row, and classifies all samples.
void evaluate(const TextToImageModels& models, const DigitSettings& settings) {
  const std::vector<DigitPrompt> prompts = prompts_by_column(settings.eval_batch_size);
  const Tensor images = draw(models, prompts, settings);
  const std::string path = join_path(settings.training.output_dir, "samples.png");
  save_image_grid(images.slice(0, 0, kColumns * phrasing_count()), path, {.columns = kColumns});
  std::printf("samples: %s, with a digit in each column and these prompts in the rows:\n", path.c_str());
  for (int64_t row = 0; row < std::min(phrasing_count(), images.size(0) / kColumns); ++row)
    std::printf("  %s ... %s\n", digit_caption(0, row).c_str(), digit_caption(kColumns - 1, row).c_str());

  const MnistDataset train(settings.data_dir, {.max_samples = settings.max_train_samples});
  const MnistDataset test(settings.data_dir, {.split = Split::kTest});
  std::vector<int64_t> asked;
  asked.reserve(prompts.size());
  for (const DigitPrompt& prompt : prompts) asked.push_back(prompt.digit);
  // The classifier takes images without the padding.
  const int64_t side = train.resolution();
  const int64_t border = (images.size(2) - side) / 2;
  const Evaluation result = evaluate_samples(
      images.narrow(2, border, side).narrow(3, border, side), train, test, train.num_classes(),
      join_path(settings.training.output_dir, "classifier.safetensors"), at::tensor(asked, at::kLong));
  print_evaluation(result, images.size(0));
  std::printf("samples that are classified as the digit of their prompt: %.1f %%\n",
              100 * result.asked_share.value_or(0));
}

int run(int argc, char** argv) {
  DigitSettings digits = default_settings();
  Settings settings;
  CLI::App app("Trains text to image on MNIST with new weights, and draws and classifies samples");
  add_flags(app, flags(), settings);
  add_digit_flags(app, digits);
  add_empty_prompt_flag(app, digits);
  refuse_python_flags(app, argc, argv);
  parse_or_exit(app, argc, argv);
  complete_digit_settings(app, digits);
  if (!settings.vae.empty() && app.count("--vae_train_steps") > 0)
    throw ConfigError("--vae_train_steps has no effect with --vae");

  const auto images = open_padded_digits(digits, Split::kTrain);
  const CaptionedDigits data(images, seed_of(digits));
  TextToImageModels models =
      make_digit_models(images->resolution(), seed_of(digits), at::Device(digits.device));
  const TextToImageTaskOptions options{.train_text_encoder = true,
                                       .proportion_empty_prompts = digits.proportion_empty_prompts};
  // The flags are checked before the autoencoder is trained.
  TextToImageTask(models, options).configure(digits.training);
  std::printf("parameters: autoencoder %lld, UNet %lld, text encoder %lld; %lld tokens; %lld images, on %s\n",
              static_cast<long long>(models.vae->num_parameters()),
              static_cast<long long>(models.unet->num_parameters()),
              static_cast<long long>(models.text_encoder->num_parameters()),
              static_cast<long long>(models.tokenizer.size()), static_cast<long long>(data.size()),
              digits.device.c_str());
  if (const int code = prepare_autoencoder(settings, digits, data, models); code != 0) return code;

  Trainer trainer(std::make_shared<TextToImageTask>(models, options), digits.training);
  trainer.on_preview([&](const PreviewContext& at) {
    const auto draw_samples = [&] {
      return draw(models, prompts_by_column(kPreviewSamples), digits, at.stop_requested);
    };
    log_unless_stopped(at, "samples", draw_samples, {.columns = kColumns});
  });
  const TrainingResult result = trainer.train(data);
  if (const int code = exit_code(result); code != 0) return code;
  evaluate(models, digits);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("mnist_text_to_image", run, argc, argv); }
