#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/pipelines/stable_diffusion_img2img_pipeline.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "models/unet/row_parts.h"
#include "pipelines/image_inputs.h"
#include "pipelines/stable_diffusion.h"

namespace diffusers {
namespace {

/// The latents of the image, one for each of the batch.
Tensor image_latents(const StableDiffusionCall& call, const Tensor& image, int64_t batch_size,
                     const std::optional<Generator>& generator) {
  const Tensor latents = image.size(1) == kImageLatentChannels ? image.to(call.tensor_options())
                                                               : call.encode_image(image, generator);
  return repeated_rows("image", latents, batch_size);
}

}  // namespace

const PipelineSpec& StableDiffusionImg2ImgPipeline::spec() {
  static const PipelineSpec spec = spec_of("StableDiffusionImg2ImgPipeline");
  return spec;
}

StableDiffusionImg2ImgPipeline::StableDiffusionImg2ImgPipeline(const AutoencoderKL& vae,
                                                               const CLIPTextModel& text_encoder,
                                                               const CLIPTokenizer& tokenizer,
                                                               const UNet2DConditionModel& unet,
                                                               const Scheduler& scheduler)
    : StableDiffusionImg2ImgPipeline(components_of(vae, text_encoder, tokenizer, unet, scheduler)) {}

StableDiffusionImg2ImgPipeline::StableDiffusionImg2ImgPipeline(PipelineComponents components)
    : TypedPipeline(std::move(components)) {}

ImagePipelineOutput StableDiffusionImg2ImgPipeline::operator()(
    const StableDiffusionImg2ImgPipelineOptions& options) {
  require<ConfigError>(options.strength >= 0 && options.strength <= 1, "strength is {}, expected 0 to 1",
                       options.strength);
  const StableDiffusionCall call(*this);
  const EncodedPrompt prompt = call.encode_prompt(guided_prompt(options));
  const Tensor image = preprocessed_image(class_name(), options.image, call.vae_scale_factor());

  const int64_t all_steps =
      call.set_timesteps(options.num_inference_steps, options.timesteps, options.sigmas);
  const StepRange steps = call.last_steps(all_steps, options.strength);
  const Tensor x0 = image_latents(call, image, prompt.batch_size, options.generator);
  const Tensor noise = call.noise({}, x0.sizes(), options.generator);
  const Tensor noisy = call.add_noise(x0, noise, steps.start);
  const Tensor latents = call.denoise(in_automatic_parts(make_denoiser(call.unet()), *call.unet()), prompt,
                                      noisy, steps.start, steps.count, denoising_options(options));
  return call.decode(latents, options.output_type);
}

}  // namespace diffusers
