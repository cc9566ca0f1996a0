// DreamBooth on the Stable Diffusion folder of mnist_text_to_image: a few bold, slanted sevens become "a
// handwritten sks seven". The UNet and the text encoder are trained, with prior preservation also on sevens
// that the folder has drawn before: "a handwritten seven" then stays a plain one. A classifier judges samples
// before and after the training.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/dreambooth_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/training/text_to_image_task.h>
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
constexpr int64_t kDigit = 7;
constexpr const char* kInstancePrompt = "a handwritten sks seven";
constexpr const char* kClassPrompt = "a handwritten seven";
constexpr uint64_t kClassSeed = 1;  // of the class images; samples have the seed 0

/// The flags that mnist_text_to_image does not have.
struct Settings {
  std::string pretrained_model_name_or_path = "out/mnist_text_to_image";
  int64_t num_images = 5;
  bool with_prior_preservation = false;
  double prior_loss_weight = 1.0;
  int64_t num_class_images = 100;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--pretrained_model_name_or_path", &Settings::pretrained_model_name_or_path,
         "Stable Diffusion folder that mnist_text_to_image wrote."}}},
      {"Data",
       {{"--num_images", &Settings::num_images, "Number of instance images.", {.check = at_least(1)}},
        {"--with_prior_preservation", &Settings::with_prior_preservation,
         "Also trains on images of the class, which the model draws first."},
        {"--num_class_images",
         &Settings::num_class_images,
         "Number of class images.",
         {.check = at_least(1)}},
        {"--prior_loss_weight",
         &Settings::prior_loss_weight,
         "Factor on the loss of the class images.",
         {.check = at_least(0)}}}},
  };
  return table;
}

/// Defaults for two CPU cores.
DigitSettings default_settings() {
  DigitSettings settings;
  settings.eval_batch_size = 200;
  settings.proportion_empty_prompts = 0;
  TrainingConfig& training = settings.training;
  training.output_dir = "out/mnist_dreambooth";
  training.train_batch_size = 5;
  training.max_train_steps = 300;
  training.learning_rate = 2e-4;
  training.lr_scheduler = "constant";
  training.lr_warmup_steps = 0;
  return settings;
}

std::vector<std::string> copies(const char* prompt, int64_t count) {
  return std::vector<std::string>(static_cast<std::size_t>(count), prompt);
}

/// A DreamBoothDataset with images of one channel, as the autoencoder takes them.
class GrayDreamBooth : public Dataset {
 public:
  explicit GrayDreamBooth(DreamBoothDataset data) : data_(std::move(data)) {}

  int64_t size() const override { return data_.size(); }
  /// Reads samples.
  /// @return the batch of the DreamBoothDataset with images `[rows, 1, H, W]`; the files are gray, so the
  ///   channels that are left out are equal
  Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const override {
    Batch batch = data_.get_batch(indices, augmentation_seed);
    batch.images = batch.images.narrow(1, 0, 1).contiguous();
    return batch;
  }

 private:
  DreamBoothDataset data_;
};

/// Writes images into a folder of the output folder.
/// @param images `[N, 1, H, W]` in [0, 1]
/// @return path of the folder
/// @throws FileError if the folder then has other files, too, such as more images of an earlier training
std::string write_images(const Tensor& images, const std::string& name, const DigitSettings& digits) {
  std::string folder = join_path(digits.training.output_dir, name);
  create_folders(folder);
  for (int64_t i = 0; i < images.size(0); ++i)
    save_image(images[i], join_path(folder, std::to_string(i) + ".png"));
  const auto found = static_cast<int64_t>(list_folder(folder).size());
  if (found != images.size(0))
    throw FileError(folder + " has " + std::to_string(found) + " files, expected " +
                    std::to_string(images.size(0)) + " images; remove the folder");
  return folder;
}

/// Writes the instance images and, with prior preservation, the class images, and opens them.
GrayDreamBooth open_data(const TextToImageModels& models, const Tensor& instances, const Settings& settings,
                         const DigitSettings& digits) {
  DreamBoothDatasetOptions options{.instance_prompt = kInstancePrompt,
                                   .resolution = *digits.training.resolution};
  if (settings.with_prior_preservation) {
    std::printf("drawing %lld images of \"%s\"\n", static_cast<long long>(settings.num_class_images),
                kClassPrompt);
    std::fflush(stdout);
    const Tensor drawn =
        draw_digits(models, copies(kClassPrompt, settings.num_class_images), digits, {.seed = kClassSeed});
    options.class_data_dir = write_images(drawn, "class_images", digits);
    options.class_prompt = kClassPrompt;
    options.num_class_images = settings.num_class_images;
  }
  return GrayDreamBooth(
      DreamBoothDataset(write_images(instances / 2 + 0.5, "instance_images", digits), options));
}

/// Draws samples of both prompts before and after the training, and prints what they show.
void evaluate(const Settings& settings, const DigitSettings& digits) {
  StyleJudge judge(digits);
  const int64_t count = digits.eval_batch_size;
  const std::vector<int64_t> asked(static_cast<std::size_t>(count), kDigit);
  std::vector<Tensor> rows;
  std::printf("%lld samples of each prompt:\n", static_cast<long long>(count));
  const auto report = [&](const char* when, const std::string& folder) {
    const TextToImageModels models = load_frozen(folder, digits);
    for (const char* prompt : {kClassPrompt, kInstancePrompt}) {
      const Tensor images = draw_digits(models, copies(prompt, count), digits);
      const JudgedSamples found = judge.judge(images, asked);
      std::printf("  %s the training, \"%s\": plain sevens %.1f %%, bold slanted sevens %.1f %%\n", when,
                  prompt, found.plain_digit, found.styled_digit);
      std::fflush(stdout);
      rows.push_back(images.slice(0, 0, kColumns));
    }
  };
  report("before", settings.pretrained_model_name_or_path);
  report("after", digits.training.output_dir);
  const std::string path = join_path(digits.training.output_dir, "samples.png");
  save_image_grid(at::cat(rows), path, {.columns = kColumns});
  std::printf("samples: %s, with these prompts in the rows\n", path.c_str());
}

int run(int argc, char** argv) {
  DigitSettings digits = default_settings();
  Settings settings;
  CLI::App app(
      "Teaches a model of MNIST's digits a new kind of seven by DreamBooth, and draws samples of it");
  add_flags(app, flags(), settings);
  add_digit_flags(app, digits);
  add_empty_prompt_flag(app, digits);
  refuse_python_flags(app, argc, argv);
  parse_or_exit(app, argc, argv);
  complete_digit_settings(app, digits);
  for (const char* flag : {"--num_class_images", "--prior_loss_weight"})
    if (!settings.with_prior_preservation && app.count(flag) > 0)
      throw ConfigError(std::string(flag) + " needs --with_prior_preservation");

  const TextToImageModels models = load_digit_models(settings.pretrained_model_name_or_path, digits);
  TrainingConfig& training = digits.training;
  if (!training.resolution) training.resolution = models.vae->config().sample_size.values().front();
  const auto all = open_padded_digits(digits, Split::kTrain);
  const Tensor plain = all->get_batch(first_of_digit(all->labels(), kDigit, settings.num_images)).images;
  Trainer trainer(
      std::make_shared<TextToImageTask>(
          models, TextToImageTaskOptions{.train_text_encoder = true,
                                         .proportion_empty_prompts = digits.proportion_empty_prompts,
                                         .prior_loss_weight = settings.prior_loss_weight}),
      training);
  trainer.on_preview([&](const PreviewContext& at) {
    const auto draw = [&] {
      std::vector<std::string> prompts = copies(kClassPrompt, kColumns);
      prompts.insert(prompts.end(), kColumns, kInstancePrompt);
      return draw_digits(models, prompts, digits, {.stop_requested = at.stop_requested});
    };
    log_unless_stopped(at, "samples", draw, {.columns = kColumns});
  });
  const GrayDreamBooth data = open_data(models, bold_slanted(plain), settings, digits);
  std::printf("UNet with %lld and text encoder with %lld parameters on %s, %lld images of \"%s\"\n",
              static_cast<long long>(models.unet->num_parameters()),
              static_cast<long long>(models.text_encoder->num_parameters()), digits.device.c_str(),
              static_cast<long long>(settings.num_images), kInstancePrompt);
  const TrainingResult result = trainer.train(data);
  if (const int code = exit_code(result); code != 0) return code;
  evaluate(settings, digits);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("mnist_dreambooth", run, argc, argv); }
