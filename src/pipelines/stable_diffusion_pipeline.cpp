#include <memory>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>
#include <diffusers/core/random.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "pipelines/stable_diffusion.h"

namespace diffusers {
namespace {

/// `{height, width}` of the images.
std::pair<int64_t, int64_t> image_size(const StableDiffusionParts& parts,
                                       const StableDiffusionPipelineOptions& options) {
  const int64_t scale = parts.vae_scale_factor();
  int64_t height = options.height.value_or(0);
  int64_t width = options.width.value_or(0);
  if (height == 0 || width == 0) {
    if (height != width)
      warn_once(
          "StableDiffusionPipeline: height and width have to be given together; the UNet's size is taken");
    const std::vector<int64_t> size = parts.unet->config().sample_size.expand(2);
    require<ConfigError>(
        size.size() == 2 && size[0] > 0 && size[1] > 0,
        "StableDiffusionPipeline: the UNet's sample_size is [{}], expected one or two positive "
        "numbers where height and width are not given",
        fmt::join(size, ", "));
    height = size[0] * scale;
    width = size[1] * scale;
  }
  require<ConfigError>(height > 0 && width > 0 && height % 8 == 0 && width % 8 == 0,
                       "height and width are {} and {}, expected positive multiples of 8", height, width);
  require<ConfigError>(height % scale == 0 && width % scale == 0,
                       "height and width are {} and {}, expected multiples of {}, the vae's scale", height,
                       width, scale);
  return {height, width};
}

/// x_T: noise of the options or of its own, with the scheduler's spread.
Tensor starting_latents(const StableDiffusionParts& parts, const StableDiffusionPipelineOptions& options,
                        int64_t batch_size, int64_t height, int64_t width) {
  const at::TensorOptions tensor_options = parts.tensor_options();
  const int64_t scale = parts.vae_scale_factor();
  const std::vector<int64_t> shape = {batch_size, parts.unet->config().in_channels, height / scale,
                                      width / scale};
  Tensor latents = options.latents;
  if (latents.defined()) {
    // Given latents say how large the images are, unless the options do.
    const bool is_sized = options.height.value_or(0) != 0 && options.width.value_or(0) != 0;
    require<TensorError>(latents.dim() == 4 && latents.size(0) == shape[0] && latents.size(1) == shape[1] &&
                             (!is_sized || latents.sizes() == shape),
                         "latents is {}, expected {}", describe(latents), shape_string(shape));
    latents = latents.to(tensor_options);
  } else {
    latents = randn_tensor(shape, options.generator, tensor_options.device(),
                           c10::typeMetaToScalarType(tensor_options.dtype()));
  }
  return latents * parts.scheduler->init_noise_sigma();
}

}  // namespace

StableDiffusionPipeline::StableDiffusionPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                                 const CLIPTokenizer& tokenizer,
                                                 const UNet2DConditionModel& unet, const Scheduler& scheduler)
    : parts_(StableDiffusionParts::make(vae, text_encoder, tokenizer, unet, scheduler,
                                        "StableDiffusionPipeline")) {}
StableDiffusionPipeline::StableDiffusionPipeline(std::unique_ptr<StableDiffusionParts> parts)
    : parts_(std::move(parts)) {}
StableDiffusionPipeline::StableDiffusionPipeline(StableDiffusionPipeline&&) noexcept = default;
StableDiffusionPipeline& StableDiffusionPipeline::operator=(StableDiffusionPipeline&&) noexcept = default;
StableDiffusionPipeline::~StableDiffusionPipeline() = default;

ImagePipelineOutput StableDiffusionPipeline::operator()(const StableDiffusionPipelineOptions& options) {
  const at::NoGradGuard no_grad;
  const StableDiffusionEvalGuard eval(*parts_);
  const auto [height, width] = image_size(*parts_, options);
  const PromptConditioning conditioning = parts_->condition(
      {options.prompt, options.negative_prompt, options.prompt_embeds, options.negative_prompt_embeds,
       options.num_images_per_prompt, options.guidance_scale, options.clip_skip});
  const int64_t steps = parts_->set_timesteps(options.num_inference_steps, options.timesteps, options.sigmas);
  const Tensor latents = starting_latents(*parts_, options, conditioning.batch_size, height, width);
  return parts_->finish(parts_->denoise(conditioning, latents, 0, steps,
                                        {options.guidance_scale, options.guidance_rescale, options.eta,
                                         options.generator, options.callback_on_step_end}),
                        options.output_type);
}

StableDiffusionPipeline StableDiffusionPipeline::from_pretrained(const std::filesystem::path& folder,
                                                                 const PipelineLoadOptions& options) {
  return StableDiffusionPipeline(StableDiffusionParts::load(folder, options, "StableDiffusionPipeline"));
}
void StableDiffusionPipeline::save_pretrained(const std::filesystem::path& folder) const {
  parts_->save(folder, "StableDiffusionPipeline");
}

AutoencoderKL& StableDiffusionPipeline::vae() { return parts_->vae; }
CLIPTextModel& StableDiffusionPipeline::text_encoder() { return parts_->text_encoder; }
CLIPTokenizer& StableDiffusionPipeline::tokenizer() { return parts_->tokenizer; }
UNet2DConditionModel& StableDiffusionPipeline::unet() { return parts_->unet; }
Scheduler& StableDiffusionPipeline::scheduler() { return *parts_->scheduler; }
void StableDiffusionPipeline::set_scheduler(const Scheduler& scheduler) { parts_->set_scheduler(scheduler); }
void StableDiffusionPipeline::set_progress_bar_config(const ProgressBarConfig& config) {
  parts_->progress_bar = config;
}

}  // namespace diffusers
