#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>
#include <diffusers/core/random.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/pipelines/stable_diffusion_img2img_pipeline.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "pipelines/stable_diffusion.h"

namespace diffusers {
namespace {

constexpr int64_t kLatentChannels = 4;

// Resampling with negative weights can slightly exceed [-1, 1], but never up to this limit.
constexpr double kLargestOvershoot = 2.0;

/// Returns `[B, C, H, W]` in [-1, 1] with sides that the autoencoder can halve. Latents are returned
/// unchanged.
Tensor preprocessed_image(const Tensor& image, int64_t scale) {
  require<TensorError>(image.defined() && (image.dim() == 3 || image.dim() == 4) && image.is_floating_point(),
                       "image is {}, expected a floating [B, C, H, W] or [C, H, W] in [0, 1]; convert bytes "
                       "with image.to(torch::kFloat) / 255",
                       describe(image));
  Tensor images = image.dim() == 3 ? image.unsqueeze(0) : image;
  if (images.size(1) == kLatentChannels) return images;
  const int64_t height = images.size(2) / scale * scale;
  const int64_t width = images.size(3) / scale * scale;
  require<TensorError>(images.size(0) > 0 && images.size(1) > 0 && height > 0 && width > 0,
                       "image is {}, expected sides of at least {}, the vae's scale", describe(image), scale);
  if (height != images.size(2) || width != images.size(3))
    images = at::upsample_nearest2d(images, at::IntArrayRef({height, width}));
  const auto [low, high] = images.aminmax();
  const auto least = low.item<double>();
  const auto largest = high.item<double>();
  require<TensorError>(least >= -kLargestOvershoot && largest <= kLargestOvershoot,
                       "image has values from {} to {}, expected [0, 1]; divide pixels in [0, 255] by 255",
                       least, largest);
  if (least < 0) {
    warn_once(
        "StableDiffusionImg2ImgPipeline: image has values below 0, expected [0, 1]; it is taken to be in "
        "[-1, 1]");
    return images;
  }
  return 2.0 * images - 1.0;
}

/// Encodes the image to latents, one for each sample of the batch.
Tensor image_latents(const StableDiffusionCall& call, const Tensor& image, int64_t batch_size,
                     const std::optional<Generator>& generator) {
  const at::TensorOptions options = call.tensor_options();
  Tensor latents;
  if (image.size(1) == kLatentChannels) {
    latents = image.to(options);
  } else {
    const auto posterior =
        call.vae()->encode(image.to(call.vae()->parameters().front().options())).latent_dist;
    latents = (posterior.sample(generator) * call.vae()->config().scaling_factor).to(options);
  }
  require<TensorError>(latents.size(0) > 0 && batch_size % latents.size(0) == 0,
                       "image has {} images, expected a number that divides {}, the images to draw",
                       latents.size(0), batch_size);
  return latents.repeat({batch_size / latents.size(0), 1, 1, 1});
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
  const Tensor image = preprocessed_image(options.image, call.vae_scale_factor());

  Scheduler& scheduler = call.scheduler();
  const int64_t all_steps =
      call.set_timesteps(options.num_inference_steps, options.timesteps, options.sigmas);
  // The run has only the last steps, a fraction `strength` of all steps.
  const auto steps = static_cast<int64_t>(static_cast<double>(all_steps) * options.strength);
  const int64_t start = (all_steps - steps) * scheduler.order();
  const Timesteps timesteps = scheduler.timesteps();
  require<ConfigError>(steps > 0 && start < timesteps.size(0),
                       "strength is {}, which leaves none of {} steps", options.strength, all_steps);
  if (scheduler.has_begin_index()) scheduler.set_begin_index(start);

  const Tensor x0 = image_latents(call, image, prompt.batch_size, options.generator);
  const Tensor noise = randn_tensor(x0.sizes(), options.generator, x0.device(), x0.scalar_type());
  const Tensor noisy =
      scheduler.add_noise(x0, noise, timesteps[start].reshape({1}).repeat({prompt.batch_size}));
  const Tensor latents = call.denoise(make_denoiser(call.unet()), prompt, noisy, start, steps,
                                      {options.guidance_scale, /*guidance_rescale=*/0.0, options.eta,
                                       options.generator, options.callback_on_step_end});
  return call.decode(latents, options.output_type);
}

}  // namespace diffusers
