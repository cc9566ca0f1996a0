#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/core/enum_choice.h>
#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/pipelines/stable_diffusion_base.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

/// The arguments of a `StableDiffusionInstructPix2PixPipeline` call, in Python's order and with Python's
/// defaults.
struct StableDiffusionInstructPix2PixPipelineOptions {
  Texts prompt = {};  ///< instruction, one or several; not together with prompt_embeds
  /// Images to edit, `[B, C, H, W]` or `[C, H, W]` floating in [0, 1]. Height and width are rounded down to
  /// multiples of the autoencoder's scale. Values below 0 warn and mean [-1, 1]. 4 channels mean latents
  /// without the scaling factor. B divides the number of images to draw.
  Tensor image = {};
  int64_t num_inference_steps = 100;  ///< number of steps, at least 1
  double guidance_scale = 7.5;        ///< scale of the instruction
  /// Scale of the image: larger values keep more of it. There is guidance if `guidance_scale` is above 1 and
  /// `image_guidance_scale` is 1 or more; otherwise the UNet runs once for each image and step.
  double image_guidance_scale = 1.5;
  Texts negative_prompt = {};         ///< one for each prompt; empty: empty texts
  int64_t num_images_per_prompt = 1;  ///< number of images for each prompt, at least 1
  double eta = 0.0;                   ///< noise of DDIM and TCD steps; other schedulers do not use it
  std::optional<Generator> generator = std::nullopt;  ///< nullopt: global generator of the device
  /// Initial noise `[B, latent_channels, H / scale, W / scale]`. Undefined: drawn from the generator.
  Tensor latents = {};
  Tensor prompt_embeds = {};           ///< `[prompts, L, D]` floating; replaces prompt
  Tensor negative_prompt_embeds = {};  ///< shape of the prompt's embeddings; replaces negative_prompt
  EnumChoice<OutputType> output_type = OutputType::kPt;  ///< "pt": images, "latent": latents
  StepEndCallback callback_on_step_end = {};  ///< called after each step with the latents; empty: none
};

/// Edits images by instructions (Brooks et al. 2023; Python: `StableDiffusionInstructPix2PixPipeline`).
///
/// The UNet sees the latents of the image, the mode of the posterior, behind the noisy latents. With guidance
/// it runs on three parts in one batch: with instruction and image, with the image, and with neither
/// (Brooks et al. 2023, eq. 3). The scheduler is copied as it is. Otherwise as `StableDiffusionPipeline`.
class StableDiffusionInstructPix2PixPipeline
    : public TypedPipeline<StableDiffusionInstructPix2PixPipeline, StableDiffusionBase> {
 public:
  /// @return the components: vae, text_encoder, tokenizer, unet and scheduler
  static const PipelineSpec& spec();
  /// Makes a pipeline from its components.
  /// @param vae the autoencoder, shared
  /// @param text_encoder the text encoder, shared
  /// @param tokenizer the tokenizer, copied
  /// @param unet the UNet, with twice as many input channels as latents; shared
  /// @param scheduler the scheduler, copied
  /// @throws ConfigError if a model is empty
  StableDiffusionInstructPix2PixPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                         const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                                         const Scheduler& scheduler);
  /// Makes a pipeline from named components.
  /// @param components "vae", "text_encoder", "tokenizer", "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit StableDiffusionInstructPix2PixPipeline(PipelineComponents components);

  /// Edits images.
  /// @param options the arguments of the call
  /// @return images `[prompts * num_images_per_prompt, C, H, W]` in [0, 1], the images of one prompt next to
  ///   each other; or their latents
  /// @throws ConfigError naming the option that is not valid, or the channels of a UNet of another kind
  /// @throws TensorError naming the tensor whose shape, dtype or range does not fit
  ImagePipelineOutput operator()(const StableDiffusionInstructPix2PixPipelineOptions& options);
};

}  // namespace diffusers
