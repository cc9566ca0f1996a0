#include "class_images.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>

#include <ATen/ATen.h>

#include "sha1.h"

using namespace diffusers;

namespace {

/// Draws images `[N, 3, H, W]` in [0, 1] of N prompts.
using DrawPrompts = std::function<Tensor(const std::vector<std::string>&)>;

/// Counts the images that ImageFolder would find.
int64_t count_images(const std::string& folder) {
  int64_t count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "metadata.jsonl" || name == "metadata.csv")
      throw FileError(
          entry.path().string() +
          ": the class images are named by a metadata file, so that generated images would not be "
          "used; remove it, or lower --num_class_images to the number of class images");
    std::string extension = entry.path().extension().string();
    std::transform(extension.begin(), extension.end(), extension.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    const bool is_image = extension == ".png" || extension == ".jpg" || extension == ".jpeg";
    if (is_image && !name.starts_with('.')) ++count;
  }
  return count;
}

at::ScalarType dtype_of(const DreamBoothSettings& settings, const std::string& device) {
  const std::string& precision = settings.prior_generation_precision;
  if (precision == "fp16") return at::kHalf;
  if (precision == "bf16") return at::kBFloat16;
  if (precision == "fp32") return at::kFloat;
  return at::Device(device).is_cuda() ? at::kHalf : at::kFloat;
}

template <class Pipeline>
DrawPrompts drawer(Pipeline pipeline) {
  pipeline.set_progress_bar_config({.disable = true});
  const auto shared = std::make_shared<Pipeline>(std::move(pipeline));
  return [shared](const std::vector<std::string>& prompts) { return (*shared)({.prompt = prompts}).images; };
}

DrawPrompts class_drawer(const TextToImageModels& models) {
  if (models.is_xl())
    return drawer(StableDiffusionXLPipeline(models.vae, models.text_encoder, models.text_encoder_2,
                                            models.tokenizer, *models.tokenizer_2, models.unet,
                                            *models.scheduler, models.force_zeros_for_empty_prompt));
  return drawer(StableDiffusionPipeline(models.vae, models.text_encoder, models.tokenizer, models.unet,
                                        *models.scheduler));
}

/// Saves an image as Python's scripts do.
/// @param image `[3, H, W]` in [0, 1]
void save_class_image(const Tensor& image, const std::string& folder, int64_t number) {
  const Tensor bytes = image.detach()
                           .to(at::kCPU, at::kFloat)
                           .clamp(0, 1)
                           .mul(255)
                           .round()
                           .to(at::kByte)
                           .permute({1, 2, 0})
                           .contiguous();
  const std::string digest = sha1_hex({reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>()),
                                       static_cast<std::size_t>(bytes.numel())});
  save_image(bytes.permute({2, 0, 1}),
             std::filesystem::path(folder) / (std::to_string(number) + "-" + digest + ".jpg"));
}

}  // namespace

void make_class_images(const DreamBoothSettings& settings, const StableDiffusionSettings& shared,
                       const TextToImageModels& models) {
  const std::string& folder = settings.class_data_dir;
  create_folders(folder);
  const int64_t present = count_images(folder);
  const int64_t missing = settings.num_class_images - present;
  if (missing <= 0) return;
  std::printf("%s has %lld class images, generating %lld of \"%s\"\n", folder.c_str(),
              static_cast<long long>(present), static_cast<long long>(missing),
              settings.class_prompt.c_str());
  std::fflush(stdout);
  if (shared.training.seed) manual_seed(static_cast<uint64_t>(*shared.training.seed));
  const at::ScalarType dtype = dtype_of(settings, shared.device);
  const DrawPrompts draw = class_drawer(
      dtype == models.unet->parameters().front().scalar_type()
          ? models
          : TextToImageModels::from_pretrained(
                shared.pretrained_model_name_or_path,
                {.variant = shared.variant, .dtype = dtype, .device = at::Device(shared.device)}));
  for (int64_t made = 0; made < missing; made += settings.sample_batch_size) {
    const int64_t count = std::min(settings.sample_batch_size, missing - made);
    const Tensor images =
        draw(std::vector<std::string>(static_cast<std::size_t>(count), settings.class_prompt));
    for (int64_t i = 0; i < count; ++i) save_class_image(images[i], folder, present + made + i);
  }
}
