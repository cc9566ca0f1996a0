#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>
#include <diffusers/core/random.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/pipelines/stable_diffusion_inpaint_pipeline.h>
#include <diffusers/schedulers/pndm_scheduler.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "models/unet/row_parts.h"
#include "pipelines/image_inputs.h"
#include "pipelines/stable_diffusion.h"

namespace diffusers {
namespace {

using InpaintOptions = StableDiffusionInpaintPipelineOptions;

/// A copy with the corrections that Python's class makes to configs from before these keys existed.
std::unique_ptr<Scheduler> scheduler_for_inpainting(const Scheduler& scheduler) {
  std::vector<ConfigOverride> corrections;
  const auto correct = [&](const char* key, const ConfigValue& found, const ConfigValue& value) {
    warn_once(fmt::format("{}: {} is {} in the config, StableDiffusionInpaintPipeline takes {}",
                          scheduler.class_name(), key, found.json(), value.json()));
    corrections.push_back({key, value});
  };
  const int64_t steps_offset = scheduler.steps_offset().value_or(1);
  if (steps_offset != 1) correct("steps_offset", steps_offset, 1);
  if (const auto* pndm = dynamic_cast<const PNDMScheduler*>(&scheduler);
      pndm != nullptr && !pndm->config().skip_prk_steps)
    correct("skip_prk_steps", false, true);
  return corrections.empty() ? scheduler.clone()
                             : Scheduler::from_config(scheduler.config_json(), corrections);
}

/// The image and the mask of a call, at the size of the result.
struct InpaintInputs {
  ImageSize size;
  Tensor image;            ///< `[B, C, H, W]` in [-1, 1], or latents
  Tensor mask;             ///< `[B, 1, H, W]`, 1 where the image is repainted
  bool has_mask_channels;  ///< whether the UNet sees the mask

  bool is_latents() const { return image.size(1) == kImageLatentChannels; }
};

/// @throws ConfigError unless the UNet takes latents, alone or with a mask and a masked image
bool has_mask_channels(const StableDiffusionCall& call) {
  const int64_t channels = call.unet()->config().in_channels;
  const int64_t latents = call.vae()->config().latent_channels;
  require<ConfigError>(
      channels == latents || channels == 2 * latents + 1,
      "StableDiffusionInpaintPipeline: the UNet has {} input channels, expected {} (latents) "
      "or {} (latents, mask and masked image)",
      channels, latents, 2 * latents + 1);
  return channels != latents;
}

InpaintInputs inpaint_inputs(const StableDiffusionCall& call, const InpaintOptions& options,
                             std::string_view class_name) {
  InpaintInputs inputs{.size = call.image_size(options.height, options.width, /*multiple=*/1),
                       .image = {},
                       .mask = {},
                       .has_mask_channels = has_mask_channels(call)};
  const Tensor image = image_batch("image", options.image);
  const int64_t scale = call.vae_scale_factor();
  inputs.image = preprocessed_image(class_name, image, scale, inputs.size);
  const ImageSize mask_size = inputs.is_latents() ? inputs.size : ImageSize{image.size(2), image.size(3)};
  inputs.mask = preprocessed_mask(options.mask_image, mask_size, inputs.size);

  require<TensorError>(
      !inputs.is_latents() || ImageSize{image.size(2) * scale, image.size(3) * scale} == inputs.size,
      "image is {}, latents of a size other than height and width, {} x {}", describe(image),
      inputs.size.first, inputs.size.second);
  const int64_t images = inputs.image.size(0);
  const int64_t masks = inputs.mask.size(0);
  require<TensorError>(images == masks || images == 1 || masks == 1,
                       "mask_image has {} masks and image {} images, expected as many, or one", masks,
                       images);
  require<ConfigError>(inputs.has_mask_channels || !options.masked_image_latents.defined(),
                       "masked_image_latents is given, but the UNet has {} channels and takes none",
                       call.unet()->config().in_channels);
  require<ConfigError>(
      !inputs.has_mask_channels || !inputs.is_latents() || options.masked_image_latents.defined(),
      "image is latents, which cannot be masked: masked_image_latents is missing");
  return inputs;
}

std::vector<int64_t> inpaint_shape(const StableDiffusionCall& call, const ImageSize& size, int64_t count) {
  const int64_t scale = call.vae_scale_factor();
  return {count, call.vae()->config().latent_channels, size.first / scale, size.second / scale};
}

/// The latents of the image without the masked part, one for each of the batch.
Tensor masked_image_latents(const StableDiffusionCall& call, const InpaintOptions& options,
                            const InpaintInputs& inputs, int64_t batch_size) {
  Tensor latents = options.masked_image_latents;
  if (latents.defined()) {
    const std::vector<int64_t> shape =
        inpaint_shape(call, inputs.size, latents.dim() > 0 ? latents.size(0) : 0);
    require<TensorError>(latents.is_floating_point() && latents.sizes() == shape,
                         "masked_image_latents is {}, expected a floating [B, {}, {}, {}]", describe(latents),
                         shape[1], shape[2], shape[3]);
    latents = latents.to(call.tensor_options());
  } else {
    const Tensor kept = (inputs.mask < 0.5).to(inputs.image.options());
    latents = call.encode_image(inputs.image * kept, options.generator);
  }
  return repeated_rows("masked_image_latents", latents, batch_size);
}

}  // namespace

const PipelineSpec& StableDiffusionInpaintPipeline::spec() {
  static const PipelineSpec spec = [] {
    PipelineSpec made = spec_of("StableDiffusionInpaintPipeline");
    made.adapt_scheduler = &scheduler_for_inpainting;
    return made;
  }();
  return spec;
}

StableDiffusionInpaintPipeline::StableDiffusionInpaintPipeline(const AutoencoderKL& vae,
                                                               const CLIPTextModel& text_encoder,
                                                               const CLIPTokenizer& tokenizer,
                                                               const UNet2DConditionModel& unet,
                                                               const Scheduler& scheduler)
    : StableDiffusionInpaintPipeline(components_of(vae, text_encoder, tokenizer, unet, scheduler)) {}

StableDiffusionInpaintPipeline::StableDiffusionInpaintPipeline(PipelineComponents components)
    : TypedPipeline(std::move(components)) {}

ImagePipelineOutput StableDiffusionInpaintPipeline::operator()(const InpaintOptions& options) {
  require<ConfigError>(options.strength >= 0 && options.strength <= 1, "strength is {}, expected 0 to 1",
                       options.strength);
  const StableDiffusionCall call(*this);
  const InpaintInputs inputs = inpaint_inputs(call, options, class_name());
  EncodedPrompt prompt = call.encode_prompt(guided_prompt(options));
  const int64_t batch_size = prompt.batch_size;
  const int64_t all_steps =
      call.set_timesteps(options.num_inference_steps, options.timesteps, options.sigmas);
  const StepRange steps = call.last_steps(all_steps, options.strength);

  // The draws and their order are Python's: the image's posterior, the noise, the masked image's posterior.
  const bool starts_from_noise = options.strength == 1.0 || options.latents.defined();
  Tensor x0;
  if (!inputs.has_mask_channels || !starts_from_noise)
    x0 = repeated_rows("image",
                       inputs.is_latents() ? inputs.image.to(call.tensor_options())
                                           : call.encode_image(inputs.image, options.generator),
                       batch_size);
  const Tensor noise =
      call.noise(options.latents, inpaint_shape(call, inputs.size, batch_size), options.generator);
  const Tensor start =
      starts_from_noise ? noise * scheduler().init_noise_sigma() : call.add_noise(x0, noise, steps.start);
  const std::vector<int64_t> mask_shape = inpaint_shape(call, inputs.size, 1);
  const Tensor mask =
      repeated_rows("mask_image",
                    at::upsample_nearest2d(inputs.mask, at::IntArrayRef({mask_shape[2], mask_shape[3]}))
                        .to(call.tensor_options()),
                    batch_size);

  SamplingCallback keep_image;
  if (inputs.has_mask_channels) {
    const Tensor masked = masked_image_latents(call, options, inputs, batch_size);
    const Tensor channels = at::cat({mask, masked}, 1);
    prompt.conditioning.extra_channels = prompt.is_guided ? at::cat({channels, channels}) : channels;
  } else {
    // Python encodes the masked image for these UNets, too, and does not use it. Only its draw has an effect.
    if (!inputs.is_latents())
      randn_tensor(inpaint_shape(call, inputs.size, std::max(inputs.image.size(0), inputs.mask.size(0))),
                   options.generator, call.vae()->parameters().front().device(),
                   call.vae()->parameters().front().scalar_type());
    keep_image = [this, mask, x0, noise, timesteps = scheduler().timesteps()](
                     int64_t position, const Tensor& /*timestep*/, SchedulerOutput& output) {
      const bool is_last = position + 1 == timesteps.size(0);
      const Tensor kept =
          is_last ? x0 : scheduler().add_noise(x0, noise, timesteps[position + 1].reshape({1}));
      output.prev_sample = (1 - mask) * kept + mask * output.prev_sample;
    };
  }
  DenoisingOptions denoising = denoising_options(options);
  denoising.after_step = keep_image;
  const Tensor latents = call.denoise(in_automatic_parts(make_denoiser(call.unet()), *call.unet()), prompt,
                                      start, steps.start, steps.count, denoising);
  return call.decode(latents, options.output_type);
}

}  // namespace diffusers
