// Trains a T2I-adapter for Stable Diffusion 1.x, 2.x or XL on pictures with captions and conditioning images,
// as diffusers' train_t2i_adapter_sdxl.py does for XL, and writes a T2IAdapter folder.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/training/t2i_adapter_task.h>
#include <diffusers/training/trainer.h>

#include "../program.h"
#include "../text_to_image/conditioning_flags.h"
#include "../training_group.h"

using namespace diffusers;

namespace {

struct Settings {
  std::string adapter_model_name_or_path = {};
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--adapter_model_name_or_path",
         &Settings::adapter_model_name_or_path,
         "Folder of a T2IAdapter to go on from.",
         {.default_text = "a new one"}}}},
  };
  return table;
}

std::vector<RefusedFlag> refused() {
  std::vector<RefusedFlag> flags = refused_stable_diffusion_flags();
  flags.push_back({"--detection_resolution", "Python's script does not use it either"});
  return flags;
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
  ConditioningSettings conditioning;
  CLI::App app("Trains a T2I-adapter for Stable Diffusion on pictures with captions and conditioning images");
  add_flags(app, flags(), settings);
  add_conditioning_flags(app, conditioning);
  add_stable_diffusion_flags(app, shared);
  refuse_python_flags(app, argc, argv, refused());
  parse_or_exit(app, argc, argv);
  complete_stable_diffusion(app, shared);
  const PreviewInputs previews = complete_previews(app, conditioning, shared.training);

  const TextToImageModels models = load_conditioned_models(shared, conditioning);
  refuse_xl_previews(previews, models, "T2I-adapter pipeline");
  const at::Device device(shared.device);
  T2IAdapter adapter = nullptr;
  if (!settings.adapter_model_name_or_path.empty()) {
    adapter = T2IAdapter::from_pretrained(settings.adapter_model_name_or_path, {.device = device});
  } else {
    if (shared.training.seed) manual_seed(static_cast<uint64_t>(*shared.training.seed));
    adapter = T2IAdapterTask::make_adapter(models);
    adapter->to(device);
  }
  const ImageFolder data(shared.train_data_dir, conditioned_picture_options(shared, conditioning));
  std::printf("T2IAdapter with %lld parameters on %s, %lld images\n",
              static_cast<long long>(adapter->num_parameters()), shared.device.c_str(),
              static_cast<long long>(data.size()));

  const T2IAdapterTaskOptions options{.proportion_empty_prompts = shared.proportion_empty_prompts,
                                      .cache_text_embeddings = shared.cache_text_embeddings,
                                      .crops_coords_top_left_h = conditioning.crops_coords_top_left_h,
                                      .crops_coords_top_left_w = conditioning.crops_coords_top_left_w};
  Trainer trainer(std::make_shared<T2IAdapterTask>(models, adapter, options), shared.training,
                  training_group());
  if (!previews.prompts.empty())
    trainer.on_preview(adapter_previews(models, adapter, previews, shared.training));
  return exit_code(trainer.train(data));
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_t2i_adapter", run, argc, argv); }
