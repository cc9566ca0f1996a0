// Trains a T2I-adapter for Stable Diffusion 1.x, 2.x or XL on pictures with captions and conditioning images,
// as diffusers' train_t2i_adapter_sdxl.py does for XL, and writes a T2IAdapter folder.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/training/t2i_adapter_task.h>
#include <diffusers/training/trainer.h>

#include "../program.h"
#include "../text_to_image/stable_diffusion_flags.h"

using namespace diffusers;

namespace {

struct Settings {
  std::string adapter_model_name_or_path = {};
  std::string tokenizer_name = {};
  std::string conditioning_image_column = "conditioning_image";
  int64_t crops_coords_top_left_h = 0;
  int64_t crops_coords_top_left_w = 0;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--adapter_model_name_or_path",
         &Settings::adapter_model_name_or_path,
         "Folder of a T2IAdapter to go on from.",
         {.default_text = "a new one"}},
        {"--tokenizer_name",
         &Settings::tokenizer_name,
         "Folder of another tokenizer.",
         {.default_text = "that of the pipeline folder"}}}},
      {"Data",
       {{"--conditioning_image_column", &Settings::conditioning_image_column,
         "Column of the conditioning images in the metadata."},
        {"--crops_coords_top_left_h",
         &Settings::crops_coords_top_left_h,
         "Top of the crop that the UNet of Stable Diffusion XL is told.",
         {.check = at_least(0)}},
        {"--crops_coords_top_left_w",
         &Settings::crops_coords_top_left_w,
         "Left of the crop that the UNet of Stable Diffusion XL is told.",
         {.check = at_least(0)}}}},
  };
  return table;
}

std::vector<RefusedFlag> refused() {
  static const std::string previews =
      "the program draws no pictures during the training; sample with the adapter of --output_dir";
  std::vector<RefusedFlag> flags = refused_stable_diffusion_flags();
  for (const char* name : {"--validation_prompt", "--validation_image", "--num_validation_images"})
    flags.push_back({name, previews});
  flags.push_back({"--detection_resolution", "Python's script does not use it either"});
  return flags;
}

T2IAdapterTaskOptions task_options(const Settings& settings, const StableDiffusionSettings& shared,
                                   bool is_xl) {
  T2IAdapterTaskOptions options{.proportion_empty_prompts = shared.proportion_empty_prompts,
                                .cache_text_embeddings = shared.cache_text_embeddings};
  const std::vector<int64_t> crop = {settings.crops_coords_top_left_h, settings.crops_coords_top_left_w};
  if (is_xl)
    options.crops_coords_top_left = crop;
  else if (crop[0] != 0 || crop[1] != 0)
    throw ConfigError(
        "--crops_coords_top_left_h or --crops_coords_top_left_w is given, but only the UNet of Stable "
        "Diffusion XL is told a crop");
  return options;
}

int run(int argc, char** argv) {
  StableDiffusionSettings shared;
  shared.training.output_dir = "t2iadapter-model";
  shared.training.resolution = 1024;
  shared.training.train_batch_size = 4;
  shared.training.num_epochs = 1;
  shared.training.learning_rate = 5e-6;
  shared.training.checkpoints_total_limit = 3;
  shared.training.dataloader_num_workers = 1;
  shared.image_interpolation_mode = ImageInterpolation::kBilinear;
  Settings settings;
  CLI::App app("Trains a T2I-adapter for Stable Diffusion on pictures with captions and conditioning images");
  add_flags(app, flags(), settings);
  add_stable_diffusion_flags(app, shared);
  refuse_python_flags(app, argc, argv, refused());
  parse_or_exit(app, argc, argv);
  complete_stable_diffusion(app, shared);
  if (app.count("--validation_steps") > 0)
    throw ConfigError(
        "--validation_steps is not supported: the program draws no pictures during the training");

  TextToImageModels models = load_stable_diffusion(shared);
  const at::Device device(shared.device);
  if (!settings.tokenizer_name.empty())
    models.tokenizer = CLIPTokenizer::from_pretrained(settings.tokenizer_name);
  T2IAdapter adapter = nullptr;
  if (!settings.adapter_model_name_or_path.empty()) {
    adapter = T2IAdapter::from_pretrained(settings.adapter_model_name_or_path, {.device = device});
  } else {
    if (shared.training.seed) manual_seed(static_cast<uint64_t>(*shared.training.seed));
    adapter = T2IAdapterTask::make_adapter(models);
    adapter->to(device);
  }
  ImageFolderOptions pictures = picture_options(shared);
  pictures.center_crop = true;
  pictures.conditioning_image_column = settings.conditioning_image_column;
  const ImageFolder data(shared.train_data_dir, pictures);
  std::printf("T2IAdapter with %lld parameters on %s, %lld images\n",
              static_cast<long long>(adapter->num_parameters()), shared.device.c_str(),
              static_cast<long long>(data.size()));

  Trainer trainer(
      std::make_shared<T2IAdapterTask>(models, adapter, task_options(settings, shared, models.is_xl())),
      shared.training);
  return exit_code(trainer.train(data));
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_t2i_adapter", run, argc, argv); }
