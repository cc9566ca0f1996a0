// Teaches the Stable Diffusion folder of mnist_text_to_image a new word by textual inversion: "<nought>", on
// 20 images of the digit 0. The word starts with the meaning of "six". A classifier counts the zeros among
// the samples of the word before and after the training.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/models/state_dict.h>
#include <diffusers/training/textual_inversion_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>

#include "../program.h"
#include "../stoppable_preview.h"
#include "../text_to_image/digit_styles.h"
#include "../text_to_image/mnist_flags.h"
#include "../text_to_image/mnist_pipeline.h"

using namespace diffusers;

namespace {

constexpr int64_t kColumns = 10;  // of a grid of samples
constexpr const char* kWord = "<nought>";
constexpr int64_t kDigit = 0;  // that the word means after the training
constexpr std::array<const char*, 4> kCaptions = {"a handwritten <nought>", "number <nought>",
                                                  "a drawing of the digit <nought>", "<nought>"};

/// The flags that mnist_text_to_image does not have.
struct Settings {
  std::string pretrained_model_name_or_path = "out/mnist_text_to_image";
  std::string initializer_token = "six";
  int64_t num_images = 20;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--pretrained_model_name_or_path", &Settings::pretrained_model_name_or_path,
         "Stable Diffusion folder that mnist_text_to_image wrote."},
        {"--initializer_token", &Settings::initializer_token, "Word that the new word starts as."}}},
      {"Data",
       {{"--num_images", &Settings::num_images, "Number of training images.", {.check = at_least(1)}}}},
  };
  return table;
}

/// Defaults for two CPU cores.
DigitSettings default_settings() {
  DigitSettings settings;
  settings.eval_batch_size = 200;
  TrainingConfig& training = settings.training;
  training.output_dir = "out/mnist_new_word";
  training.train_batch_size = 20;
  training.max_train_steps = 300;
  training.learning_rate = 5e-4;
  training.lr_scheduler = "constant";
  training.lr_warmup_steps = 0;
  training.max_grad_norm = 0;
  training.adam_weight_decay = 0;
  return settings;
}

/// Images of the digit, each with all captions.
TensorDataset word_images(const Settings& settings, const DigitSettings& digits) {
  const auto all = open_padded_digits(digits, Split::kTrain);
  const Tensor images = all->get_batch(first_of_digit(all->labels(), kDigit, settings.num_images)).images;
  Batch samples{.images = images.repeat_interleave(static_cast<int64_t>(kCaptions.size()), 0)};
  for (int64_t i = 0; i < images.size(0); ++i)
    samples.captions.insert(samples.captions.end(), kCaptions.begin(), kCaptions.end());
  return TensorDataset(samples);
}

std::vector<std::string> prompts(int64_t count) {
  std::vector<std::string> texts;
  for (int64_t i = 0; i < count; ++i)
    texts.emplace_back(kCaptions[static_cast<std::size_t>(i) % kCaptions.size()]);
  return texts;
}

std::shared_ptr<TextualInversionTask> make_task(const TextToImageModels& models, const Settings& settings) {
  return std::make_shared<TextualInversionTask>(
      models, TextualInversionTaskOptions{.placeholder_token = kWord,
                                          .initializer_token = settings.initializer_token,
                                          .save_as_full_pipeline = false});
}

/// Returns true if the text encoder with the new word has the weights of the other one, bit for bit, apart
/// from the last row of the embedding.
bool has_weights_of(const TensorMap& trained, const TensorMap& before) {
  TensorMap old_rows;
  for (const auto& [name, tensor] : trained) {
    const bool has_new_row = before.contains(name) && before.at(name).size(0) + 1 == tensor.size(0);
    old_rows[name] = has_new_row ? tensor.narrow(0, 0, tensor.size(0) - 1) : tensor;
  }
  return are_equal(old_rows, before);
}

/// Draws samples of the word before and after the training, and prints what they show.
/// @param trained the models after the training
void evaluate(const TextToImageModels& trained, const Settings& settings, const DigitSettings& digits) {
  StyleJudge judge(digits);
  const std::vector<std::string> texts = prompts(digits.eval_batch_size);
  const auto load = [&] { return load_frozen(settings.pretrained_model_name_or_path, digits); };
  const Tensor before = draw_digits(make_task(load(), settings)->models(), texts, digits);
  const TextToImageModels base = load();
  const bool keeps_text_encoder =
      has_weights_of(state_dict(trained.text_encoder), state_dict(base.text_encoder));
  const bool keeps_unet = are_equal(state_dict(trained.unet), state_dict(base.unet));
  StableDiffusionPipeline pipeline = digit_pipeline(base);
  pipeline.load_textual_inversion(digits.training.output_dir);
  const Tensor after = draw_digits(pipeline, texts, digits);

  const std::string path = join_path(digits.training.output_dir, "samples.png");
  save_image_grid(at::cat({before.slice(0, 0, kColumns), after.slice(0, 0, kColumns)}), path,
                  {.columns = kColumns});
  std::printf("samples: %s, with the word before and after the training in the rows\n", path.c_str());
  std::printf(
      "%zu samples of \"%s\" that show the digit %lld: %.1f %% before the training, %.1f %% after it\n",
      texts.size(), kWord, static_cast<long long>(kDigit), judge.share_of_digit(before, kDigit),
      judge.share_of_digit(after, kDigit));
  std::printf(
      "equal, bit for bit:\n"
      "  all other weights of the text encoder, those before the training: %s\n"
      "  weights of the UNet, those before the training: %s\n",
      keeps_text_encoder ? "yes" : "NO", keeps_unet ? "yes" : "NO");
}

int run(int argc, char** argv) {
  DigitSettings digits = default_settings();
  Settings settings;
  CLI::App app("Teaches a model of MNIST's digits a new word by textual inversion, and draws samples of it");
  add_flags(app, flags(), settings);
  add_digit_flags(app, digits);
  refuse_python_flags(app, argc, argv);
  parse_or_exit(app, argc, argv);
  complete_digit_settings(app, digits);

  const TextToImageModels models = load_digit_models(settings.pretrained_model_name_or_path, digits);
  TrainingConfig& training = digits.training;
  if (!training.resolution) training.resolution = models.vae->config().sample_size.values().front();
  const TensorDataset data = word_images(settings, digits);
  const auto task = make_task(models, settings);
  std::printf("the word \"%s\" starts as \"%s\", on %s, %lld images with %zu captions each\n", kWord,
              settings.initializer_token.c_str(), digits.device.c_str(),
              static_cast<long long>(settings.num_images), kCaptions.size());

  Trainer trainer(task, training);
  trainer.on_preview([&](const PreviewContext& at) {
    const auto draw = [&] {
      return draw_digits(task->models(), prompts(kColumns), digits, {.stop_requested = at.stop_requested});
    };
    log_unless_stopped(at, "samples", draw, {.columns = kColumns});
  });
  const TrainingResult result = trainer.train(data);
  if (const int code = exit_code(result); code != 0) return code;
  evaluate(task->models(), settings, digits);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("mnist_new_word", run, argc, argv); }
