#include <utility>

#include <diffusers/models/layers.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/training/instruct_pix2pix_task.h>

#include <ATen/ATen.h>

#include "core/json.h"
#include "core/require.h"
#include "training/tasks/text_to_image_folder.h"
#include "training/tasks/text_to_image_parts.h"

namespace diffusers {
namespace {

constexpr const char* kPix2PixTask = "InstructPix2PixTask";
constexpr const char* kWidenedLayer = "conv_in.weight";

/// Checks what the base class does not check.
TextToImageModels pix2pix_models(const TextToImageModels& given, const InstructPix2PixTaskOptions& options) {
  TextToImageModels models = complete_models(given, kPix2PixTask);
  require<ConfigError>(
      !models.is_xl(),
      "{}: the unet is one of Stable Diffusion XL, expected one of Stable Diffusion 1.x or 2.x",
      kPix2PixTask);
  const int64_t latents = models.vae->config().latent_channels;
  const int64_t channels = models.unet->config().in_channels;
  require<ConfigError>(
      channels == 2 * latents,
      "{}: the unet has {} input channels, expected {}: the latents of the edited and of the "
      "original image; InstructPix2PixTask::widened_unet makes one from a unet with {}",
      kPix2PixTask, channels, 2 * latents, latents);
  const double probability = options.conditioning_dropout_prob;
  require<ConfigError>(probability >= 0 && 3 * probability <= 1,
                       "conditioning_dropout_prob is {}, expected 0 to 1/3", probability);
  return models;
}

}  // namespace

InstructPix2PixTask::InstructPix2PixTask(const TextToImageModels& models, InstructPix2PixTaskOptions options)
    : StableDiffusionTask(
          kPix2PixTask, models, pix2pix_models(models, options).unet,
          *training_scheduler(models, kPix2PixTask),
          {.cache_text_embeddings = options.cache_text_embeddings,
           .train_unet = true,
           .extra_channels = complete_models(models, kPix2PixTask).vae->config().latent_channels,
           .diffusion = options.diffusion},
          "unet"),
      pix2pix_options_(std::move(options)) {}

UNet2DConditionModel InstructPix2PixTask::widened_unet(const UNet2DConditionModel& unet) {
  require<ConfigError>(!unet.is_empty(), "widened_unet: there is no unet");
  const UNet2DConditionModelConfig& config = unet->config();
  require<ConfigError>(config.in_channels == config.out_channels,
                       "widened_unet: the unet has {} input channels and {} output channels, expected equal "
                       "numbers, as a unet of text to image has",
                       config.in_channels, config.out_channels);
  Json json = parse_json(UNet2DConditionModel(unet)->config_json(), "config of the unet");
  json["in_channels"] = 2 * config.in_channels;
  const Tensor first = unet->parameters().front();
  const layers::SkipInitGuard skip_init;
  UNet2DConditionModel widened = UNet2DConditionModel::from_config(dump_json(json));
  widened->to(first.device(), first.scalar_type());
  const at::NoGradGuard no_grad;
  const auto weights = unet->named_parameters();
  for (const auto& parameter : widened->named_parameters()) {
    Tensor target = parameter.value();
    if (parameter.key() == kWidenedLayer) {
      target.zero_();
      target = target.narrow(1, 0, config.in_channels);
    }
    target.copy_(weights[parameter.key()]);
  }
  const auto values = unet->named_buffers();
  for (const auto& buffer : widened->named_buffers()) buffer.value().copy_(values[buffer.key()]);
  return widened;
}

void InstructPix2PixTask::check_batch(const Batch& batch) {
  StableDiffusionTask::check_batch(batch);
  const Tensor& originals = batch.original_images;
  require<ConfigError>(originals.defined(),
                       "{}: the dataset gives no original images; ImageFolder reads them from the column "
                       "original_image_column",
                       kPix2PixTask);
  require<TensorError>(
      originals.sizes() == batch.images.sizes() && originals.is_floating_point(),
      "original_images are {}, expected a floating tensor {}, the shape of the edited images",
      describe(originals), shape_string(batch.images.sizes()));
}

void InstructPix2PixTask::begin_step(const StepContext& context) {
  StableDiffusionTask::begin_step(context);
  rows_.begin_step(context);
}

DiffusionTask::Draw InstructPix2PixTask::draw(const Tensor& x0) {
  Draw drawn = StableDiffusionTask::draw(x0);
  const double probability = pix2pix_options_.conditioning_dropout_prob;
  if (probability == 0) return drawn;
  const int64_t first = rows_.next(x0, [&](at::IntArrayRef shape) {
    step_numbers_ = at::rand({shape[0]}, step_context().generator, x0.options().dtype(at::kFloat));
  });
  const Tensor numbers = step_numbers_.narrow(0, first, x0.size(0));
  drop_captions(numbers.lt(2 * probability));
  const Tensor is_dropped = numbers.ge(probability).logical_and(numbers.lt(3 * probability));
  kept_images_ = is_dropped.logical_not().to(x0.scalar_type()).view({-1, 1, 1, 1});
  return drawn;
}

Conditioning InstructPix2PixTask::conditioning(const Batch& batch) {
  Conditioning conditioning = StableDiffusionTask::conditioning(batch);
  Tensor latents = latent_encoder().encode_distribution(batch.original_images).mean;
  const Tensor kept = std::exchange(kept_images_, {});
  if (kept.defined()) latents = latents * kept;
  conditioning.extra_channels = latents;
  return conditioning;
}

void InstructPix2PixTask::save_extras(const std::filesystem::path& output_dir) const {
  DiffusionTask::save_extras(output_dir);
  save_text_encoders(models(), output_dir);
  save_beside_text_to_image(models(), output_dir, "StableDiffusionInstructPix2PixPipeline");
}

std::string InstructPix2PixTask::config_json() const {
  Json json = parse_json(StableDiffusionTask::config_json(), "the config of the StableDiffusionTask");
  json["conditioning_dropout_prob"] = pix2pix_options_.conditioning_dropout_prob;
  return dump_json(json);
}

}  // namespace diffusers
