// Trains a LoRA adapter for the Stable Diffusion folder of mnist_text_to_image on 20 images of a style that
// the folder has never seen: bold, slanted digits. Draws digits without the adapter and with it at several
// weights, fuses it, and writes a pipeline folder with the fused weights. A classifier judges the samples.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/models/state_dict.h>
#include <diffusers/training/text_to_image_lora_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>

#include "../program.h"
#include "../stoppable_preview.h"
#include "digit_styles.h"
#include "mnist_captions.h"
#include "mnist_flags.h"
#include "mnist_pipeline.h"

using namespace diffusers;

namespace {

constexpr int64_t kColumns = 10;         // of a grid of samples: the digits
constexpr int64_t kPreviewSamples = 20;  // samples of a preview
constexpr const char* kAdapter = "bold_slanted";

/// The flags that mnist_text_to_image does not have.
struct Settings {
  std::string pretrained_model_name_or_path = "out/mnist_text_to_image";
  int64_t num_images = 20;
  int64_t rank = 8;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--pretrained_model_name_or_path", &Settings::pretrained_model_name_or_path,
         "Stable Diffusion folder that mnist_text_to_image wrote."},
        {"--rank", &Settings::rank, "Rank of the adapter.", {.check = at_least(1)}}}},
      {"Data",
       {{"--num_images",
         &Settings::num_images,
         "Number of training images, of all digits in turns.",
         {.check = at_least(1)}}}},
  };
  return table;
}

/// Defaults for two CPU cores.
DigitSettings default_settings() {
  DigitSettings settings;
  settings.eval_batch_size = 100;
  TrainingConfig& training = settings.training;
  training.output_dir = "out/mnist_style_lora";
  training.train_batch_size = 20;
  training.max_train_steps = 400;
  training.learning_rate = 2e-3;
  training.lr_warmup_steps = 20;
  return settings;
}

/// The layers with an adapter: the attention, and the convolutions of the residual blocks.
LoraConfig lora_config(int64_t rank) {
  return {.r = rank,
          .lora_alpha = rank,
          .init_lora_weights = "gaussian",
          .target_modules = {"to_k", "to_q", "to_v", "to_out.0", "conv1", "conv2"}};
}

/// Bold, slanted images of all digits in turns, each with all phrasings of its caption.
TensorDataset style_images(const Settings& settings, const DigitSettings& digits) {
  const auto all = open_padded_digits(digits, Split::kTrain);
  const Batch chosen = all->get_batch(first_of_each_digit(all->labels(), settings.num_images));
  Batch samples{.images = bold_slanted(chosen.images).repeat_interleave(phrasing_count(), 0)};
  for (int64_t i = 0; i < chosen.size(); ++i)
    for (int64_t phrasing = 0; phrasing < phrasing_count(); ++phrasing)
      samples.captions.push_back(digit_caption(chosen.class_labels[i].item<int64_t>(), phrasing));
  return TensorDataset(samples);
}

/// Prompts with the digits 0, 1, ..., 9, 0, ...
struct Prompts {
  explicit Prompts(int64_t count) {
    for (const DigitPrompt& prompt : prompts_by_column(count)) {
      texts.push_back(prompt.text);
      digits.push_back(prompt.digit);
    }
  }
  std::vector<std::string> texts;
  std::vector<int64_t> digits;
};

/// Draws digits with the folder and the files that were written, and prints what they show.
class Evaluation {
 public:
  Evaluation(const Settings& settings, const DigitSettings& digits)
      : settings_(settings), digits_(digits), prompts_(digits.eval_batch_size), judge_(digits) {}

  /// @param trained the models after the training, with the adapter, which is removed
  void run(const TextToImageModels& trained) {
    const TensorMap weights = state_dict(load_frozen(settings_.pretrained_model_name_or_path, digits_).unet);
    const TextToImageModels models = load_frozen(settings_.pretrained_model_name_or_path, digits_);
    StableDiffusionPipeline pipeline = digit_pipeline(models);
    std::printf("%zu digits from prompts:\n", prompts_.texts.size());
    const Tensor base = judged("no adapter", pipeline);
    pipeline.load_lora_weights(digits_.training.output_dir, {.adapter_name = kAdapter});
    std::vector<Tensor> at_weights;
    for (const double weight : {0.0, 0.5, 1.0}) {
      pipeline.set_adapters({kAdapter}, {weight});
      at_weights.push_back(judged("weight " + std::to_string(weight).substr(0, 3), pipeline));
    }
    pipeline.fuse_lora();
    const Tensor fused = judged("fused", pipeline);
    save_samples(at_weights);
    const std::string folder = join_path(digits_.training.output_dir, "fused");
    pipeline.save_pretrained(folder);
    std::printf("pipeline folder with the fused weights: %s\n", folder.c_str());
    std::printf("largest difference of fused samples to those at weight 1, of pixels in [0, 1]: %.1e\n",
                (fused - at_weights.back()).abs().max().item<double>());
    std::printf("equal, bit for bit:\n");
    StableDiffusionPipeline read = digit_pipeline(load_frozen(folder, digits_));
    claim("samples of the folder with the fused weights, fused samples", at::equal(drawn(read), fused));
    pipeline.unfuse_lora();
    pipeline.unload_lora_weights();
    claim("weights after unfuse_lora, weights before", are_equal(state_dict(models.unet), weights));

    StableDiffusionPipeline after = digit_pipeline(trained);
    claim("samples at weight 0, samples before the training", at::equal(at_weights.front(), base));
    after.disable_lora();
    claim("samples with disable_lora, samples before the training", at::equal(drawn(after), base));
    after.unload_lora_weights();
    claim("weights after unload_lora_weights, weights before the training",
          are_equal(state_dict(trained.unet), weights));
  }

 private:
  Tensor drawn(StableDiffusionPipeline& pipeline) const {
    return draw_digits(pipeline, prompts_.texts, digits_);
  }

  /// Draws samples and prints what the classifier finds.
  Tensor judged(const std::string& name, StableDiffusionPipeline& pipeline) {
    Tensor images = drawn(pipeline);
    const JudgedSamples found = judge_.judge(images, prompts_.digits);
    std::printf("  %-10s  new style %5.1f %%, with the digit %5.1f %%; old style with the digit %5.1f %%\n",
                name.c_str(), found.styled, found.styled_digit, found.plain_digit);
    std::fflush(stdout);
    return images;
  }

  void save_samples(const std::vector<Tensor>& at_weights) const {
    std::vector<Tensor> rows;
    for (const Tensor& images : at_weights) rows.push_back(images.slice(0, 0, kColumns));
    const std::string path = join_path(digits_.training.output_dir, "samples.png");
    save_image_grid(at::cat(rows), path, {.columns = kColumns});
    std::printf("samples: %s, with the adapter's weights 0, 0.5 and 1 in the rows\n", path.c_str());
  }

  static void claim(const char* what, bool is_true) {
    std::printf("  %s: %s\n", what, is_true ? "yes" : "NO");
  }

  Settings settings_;
  DigitSettings digits_;
  Prompts prompts_;
  StyleJudge judge_;
};

int run(int argc, char** argv) {
  DigitSettings digits = default_settings();
  Settings settings;
  CLI::App app("Trains a LoRA adapter for a new style of MNIST's digits, and draws samples with it");
  add_flags(app, flags(), settings);
  add_digit_flags(app, digits);
  add_empty_prompt_flag(app, digits);
  refuse_python_flags(app, argc, argv);
  parse_or_exit(app, argc, argv);
  complete_digit_settings(app, digits);

  const TextToImageModels models = load_frozen(settings.pretrained_model_name_or_path, digits);
  TrainingConfig& training = digits.training;
  if (!training.resolution) training.resolution = models.vae->config().sample_size.values().front();
  const TensorDataset data = style_images(settings, digits);
  manual_seed(static_cast<uint64_t>(training.seed.value_or(0)));
  const auto task = std::make_shared<TextToImageLoraTask>(
      models, TextToImageLoraTaskOptions{.unet_lora = lora_config(settings.rank),
                                         .proportion_empty_prompts = digits.proportion_empty_prompts});
  int64_t parameters = 0;
  for (const Tensor& parameter : models.unet->parameters())
    if (parameter.requires_grad()) parameters += parameter.numel();
  std::printf("LoRA adapter with %lld parameters on %s, %lld images with %lld captions each\n",
              static_cast<long long>(parameters), digits.device.c_str(),
              static_cast<long long>(settings.num_images), static_cast<long long>(phrasing_count()));

  Trainer trainer(task, training);
  trainer.on_preview([&](const PreviewContext& at) {
    const auto draw = [&] {
      return draw_digits(models, Prompts(kPreviewSamples).texts, digits,
                         {.stop_requested = at.stop_requested});
    };
    log_unless_stopped(at, "samples", draw, {.columns = kColumns});
  });
  const TrainingResult result = trainer.train(data);
  if (const int code = exit_code(result); code != 0) return code;
  Evaluation(settings, digits).run(models);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("mnist_style_lora", run, argc, argv); }
