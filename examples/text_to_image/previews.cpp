#include "previews.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/io/image.h>
#include <diffusers/pipelines/stable_diffusion_adapter_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_controlnet_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_inpaint_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_instruct_pix2pix_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/unipc_multistep_scheduler.h>

#include <ATen/ATen.h>

using namespace diffusers;

namespace {

// Denoising steps of the scripts of Stable Diffusion and ControlNet, and of the script of Stable Diffusion
// XL.
constexpr int64_t kPreviewSteps = 20;
constexpr int64_t kPreviewStepsXL = 25;

/// The inputs of a pair.
struct PreviewPair {
  std::string prompt;
  Tensor image;  ///< `[3, H, W]` in [0, 1]; undefined: none
  Tensor mask;   ///< `[1, H, W]` in [0, 1]; undefined: none
};

/// Draws one picture `[1, C, H, W]` in [0, 1].
using DrawPreview = std::function<Tensor(const PreviewPair&, const std::optional<Generator>&)>;

/// @param size side of the images; none: that of the file
std::vector<PreviewPair> read_pairs(const PreviewInputs& inputs, at::Device device, OneOrMany<int64_t> size) {
  const auto read = [&](const std::vector<std::string>& files, std::size_t i, int64_t channels) {
    if (files.empty()) return Tensor();
    return load_image(files.size() == 1 ? files.front() : files[i],
                      {.size = size, .range = "unit", .channels = channels, .exif_transpose = true})
        .to(device);
  };
  std::vector<PreviewPair> pairs;
  for (std::size_t i = 0; i < std::max(inputs.prompts.size(), inputs.images.size()); ++i)
    pairs.push_back({.prompt = inputs.prompts.size() == 1 ? inputs.prompts.front() : inputs.prompts[i],
                     .image = read(inputs.images, i, 3),
                     .mask = read(inputs.masks, i, 1)});
  return pairs;
}

at::Device device_of(const TextToImageModels& models) { return models.unet->parameters().front().device(); }

/// Draws the pictures of a pair one by one, as the scripts do.
/// @return empty after a request to stop
std::vector<Tensor> draw_pair(const PreviewPair& pair, int64_t count, const DrawPreview& draw,
                              const std::optional<Generator>& generator, const PreviewContext& at) {
  std::vector<Tensor> images;
  for (int64_t i = 0; i < count; ++i) {
    if (at.stop_requested()) return {};
    images.push_back(draw(pair, generator).to(at::kCPU, at::kFloat));
  }
  return images;
}

std::optional<Generator> preview_generator(const std::optional<int64_t>& seed) {
  if (!seed) return std::nullopt;
  return make_generator(static_cast<uint64_t>(*seed));
}

template <class Pipeline>
std::shared_ptr<Pipeline> quiet(Pipeline pipeline) {
  pipeline.set_progress_bar_config({.disable = true});
  return std::make_shared<Pipeline>(std::move(pipeline));
}

/// The scheduler of the pictures of a UNet.
std::unique_ptr<Scheduler> preview_scheduler(const TextToImageModels& models, const std::string& class_name) {
  const std::string config = models.scheduler->config_json();
  if (class_name == "DPMSolverMultistepScheduler")
    return std::make_unique<DPMSolverMultistepScheduler>(DPMSolverMultistepScheduler::from_config(config));
  if (class_name == "DDPMScheduler")
    return std::make_unique<DDPMScheduler>(DDPMScheduler::from_config(config));
  return models.scheduler->clone();
}

DrawPreview unet_drawer(const TextToImageModels& models, int64_t resolution, const PreviewInputs& inputs) {
  const std::unique_ptr<Scheduler> scheduler = preview_scheduler(models, inputs.scheduler);
  const int64_t steps = inputs.num_inference_steps.value_or(models.is_xl() ? kPreviewStepsXL : kPreviewSteps);
  if (models.is_xl()) {
    const auto pipeline = quiet(StableDiffusionXLPipeline(
        models.vae, models.text_encoder, models.text_encoder_2, models.tokenizer, *models.tokenizer_2,
        models.unet, *scheduler, models.force_zeros_for_empty_prompt));
    return [pipeline, steps](const PreviewPair& pair, const std::optional<Generator>& generator) {
      return (*pipeline)({.prompt = pair.prompt, .num_inference_steps = steps, .generator = generator})
          .images;
    };
  }
  if (models.is_inpainting()) {
    const auto pipeline = quiet(StableDiffusionInpaintPipeline(models.vae, models.text_encoder,
                                                               models.tokenizer, models.unet, *scheduler));
    return [pipeline, resolution, steps](const PreviewPair& pair, const std::optional<Generator>& generator) {
      return (*pipeline)({.prompt = pair.prompt,
                          .image = pair.image,
                          .mask_image = pair.mask,
                          .height = resolution,
                          .width = resolution,
                          .num_inference_steps = steps,
                          .generator = generator})
          .images;
    };
  }
  const auto pipeline = quiet(
      StableDiffusionPipeline(models.vae, models.text_encoder, models.tokenizer, models.unet, *scheduler));
  return [pipeline, steps](const PreviewPair& pair, const std::optional<Generator>& generator) {
    return (*pipeline)({.prompt = pair.prompt, .num_inference_steps = steps, .generator = generator}).images;
  };
}

/// A grid of each pair: the conditioning image, then the pictures.
Previews conditioned_previews(const std::vector<PreviewPair>& pairs, const DrawPreview& draw, int64_t count,
                              const std::optional<int64_t>& seed) {
  return [=](const PreviewContext& at) {
    const std::optional<Generator> generator = preview_generator(seed);
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      std::vector<Tensor> images = draw_pair(pairs[i], count, draw, generator, at);
      if (images.empty()) return;
      const Tensor condition = pairs[i].image.unsqueeze(0).to(at::kCPU, at::kFloat);
      images.insert(images.begin(),
                    at::upsample_nearest2d(condition, {images[0].size(2), images[0].size(3)}));
      at.log_images("validation_" + std::to_string(i), at::cat(images), {.columns = count + 1});
    }
  };
}

}  // namespace

void check_preview_pairs(const PreviewInputs& inputs) {
  const std::size_t prompts = inputs.prompts.size();
  const std::size_t images = inputs.images.size();
  const auto check = [](bool is_right, const std::string& message) {
    if (!is_right) throw ConfigError(message);
  };
  check(prompts > 0, "--validation_image needs --validation_prompt");
  check(images > 0, "--validation_prompt needs --validation_image");
  check(prompts == images || prompts == 1 || images == 1,
        "--validation_prompt has " + std::to_string(prompts) + " texts and --validation_image " +
            std::to_string(images) + " files; expected as many, or one of either");
}

Previews unet_previews(const TextToImageModels& models, const PreviewInputs& inputs,
                       const TrainingConfig& training) {
  const std::vector<PreviewPair> pairs = read_pairs(inputs, device_of(models), *training.resolution);
  const DrawPreview draw = unet_drawer(models, *training.resolution, inputs);
  return [pairs, draw, count = inputs.num_images, seed = training.seed](const PreviewContext& at) {
    const std::optional<Generator> generator = preview_generator(seed);
    std::vector<Tensor> images;
    for (const PreviewPair& pair : pairs) {
      const std::vector<Tensor> drawn = draw_pair(pair, count, draw, generator, at);
      if (drawn.empty()) return;
      images.insert(images.end(), drawn.begin(), drawn.end());
    }
    at.log_images("validation", at::cat(images),
                  {.columns = count > 1 ? count : static_cast<int64_t>(pairs.size())});
  };
}

Previews controlnet_previews(const TextToImageModels& models, const ControlNetModel& controlnet,
                             const PreviewInputs& inputs, const TrainingConfig& training) {
  const std::vector<PreviewPair> pairs = read_pairs(inputs, device_of(models), {});
  const auto pipeline = quiet(StableDiffusionControlNetPipeline(
      models.vae, models.text_encoder, models.tokenizer, models.unet, controlnet,
      UniPCMultistepScheduler::from_config(models.scheduler->config_json())));
  const DrawPreview draw = [pipeline](const PreviewPair& pair, const std::optional<Generator>& generator) {
    return (*pipeline)({.prompt = pair.prompt,
                        .image = pair.image,
                        .num_inference_steps = kPreviewSteps,
                        .generator = generator})
        .images;
  };
  return conditioned_previews(pairs, draw, inputs.num_images, training.seed);
}

Previews adapter_previews(const TextToImageModels& models, const T2IAdapter& adapter,
                          const PreviewInputs& inputs, const TrainingConfig& training) {
  const std::vector<PreviewPair> pairs =
      read_pairs(inputs, device_of(models), {*training.resolution, *training.resolution});
  const auto pipeline = quiet(StableDiffusionAdapterPipeline(
      models.vae, models.text_encoder, models.tokenizer, models.unet, adapter, *models.scheduler));
  const DrawPreview draw = [pipeline](const PreviewPair& pair, const std::optional<Generator>& generator) {
    return (*pipeline)({.prompt = pair.prompt,
                        .image = pair.image,
                        .num_inference_steps = kPreviewSteps,
                        .generator = generator})
        .images;
  };
  return conditioned_previews(pairs, draw, inputs.num_images, training.seed);
}

Previews editing_previews(const TextToImageModels& models, const PreviewInputs& inputs,
                          const TrainingConfig& training) {
  const std::vector<PreviewPair> pairs = read_pairs(inputs, device_of(models), {});
  const auto pipeline = quiet(StableDiffusionInstructPix2PixPipeline(
      models.vae, models.text_encoder, models.tokenizer, models.unet, *models.scheduler));
  const DrawPreview draw = [pipeline](const PreviewPair& pair, const std::optional<Generator>& generator) {
    return (*pipeline)({.prompt = pair.prompt,
                        .image = pair.image,
                        .num_inference_steps = kPreviewSteps,
                        .guidance_scale = 7.0,
                        .image_guidance_scale = 1.5,
                        .generator = generator})
        .images;
  };
  return conditioned_previews(pairs, draw, inputs.num_images, training.seed);
}
