#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/pipelines/stable_diffusion_base.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

/// The arguments of a `StableDiffusionInpaintPipeline` call, in Python's order and with Python's defaults.
/// `padding_mask_crop` is absent: Python takes it for PIL images only.
struct StableDiffusionInpaintPipelineOptions {
  Texts prompt = {};  ///< one text or several; not together with prompt_embeds
  /// Images to repaint, `[B, C, H, W]` or `[C, H, W]` floating in [0, 1], resized to height and width by the
  /// nearest pixel. Values below 0 warn and mean [-1, 1]. 4 channels mean latents. B divides the number of
  /// images to draw.
  Tensor image = {};
  /// Masks, `[B, 1, H, W]`, `[B, H, W]` or `[H, W]` floating in [0, 1], of the image's size; of height and
  /// width if the image is latents. Pixels from 0.5 are repainted, the others are kept.
  Tensor mask_image = {};
  /// Latents of the image without the masked part, `[B, latent_channels, height / scale, width / scale]`;
  /// undefined: encoded from image and mask. Only for UNets with mask channels.
  Tensor masked_image_latents = {};
  /// Height of the images, a multiple of the autoencoder's scale; none: the UNet's sample_size times that
  /// scale.
  std::optional<int64_t> height = std::nullopt;
  std::optional<int64_t> width = std::nullopt;  ///< width of the images, as height
  double strength = 1.0;                        ///< part of the steps that is run, above 0 and at most 1
  int64_t num_inference_steps = 50;             ///< number of steps for strength 1, at least 1
  std::vector<double> timesteps = {};  ///< replaces num_inference_steps; only if the scheduler takes them
  std::vector<double> sigmas = {};     ///< replaces num_inference_steps; only if the scheduler takes them
  double guidance_scale = 7.5;         ///< strength of the prompt; above 1 the UNet also runs without it
  Texts negative_prompt = {};          ///< as many as prompts; none: empty texts
  int64_t num_images_per_prompt = 1;   ///< at least 1
  double eta = 0.0;                    ///< for DDIM and TCD; other schedulers do not use it
  std::optional<Generator> generator = std::nullopt;  ///< none: the global generator of the device
  /// Noise to start from, `[B, latent_channels, height / scale, width / scale]`, whatever the strength;
  /// undefined: drawn.
  Tensor latents = {};
  Tensor prompt_embeds = {};                             ///< `[prompts, L, D]` floating, replaces prompt
  Tensor negative_prompt_embeds = {};                    ///< shape of the prompt's, replaces negative_prompt
  EnumChoice<OutputType> output_type = OutputType::kPt;  ///< "pt": images, "latent": latents
  /// Number of the text encoder's last layers that are left out; none: 0, with the final layer norm.
  std::optional<int64_t> clip_skip = std::nullopt;
  StepEndCallback callback_on_step_end = {};  ///< called after each step with the latents
};

/// Repaints the masked part of images (Rombach et al. 2022; Python: `StableDiffusionInpaintPipeline`).
///
/// A UNet with 9 channels sees the mask and the latents of the masked image beside the noisy latents. With a
/// UNet of 4 channels, the kept part of the latents is replaced by the image's, with the noise of the
/// timestep, after each step (Lugmayr et al. 2022, section 4.1). The decoded images are not pasted over: the
/// autoencoder also changes the kept part slightly.
///
/// The scheduler is copied, with `steps_offset` 1 and `skip_prk_steps`, as in Python. Otherwise as
/// `StableDiffusionPipeline`, whose folders it loads.
class StableDiffusionInpaintPipeline
    : public TypedPipeline<StableDiffusionInpaintPipeline, StableDiffusionBase> {
 public:
  /// The components: vae, text_encoder, tokenizer, unet, scheduler.
  static const PipelineSpec& spec();
  /// @param vae encodes images and decodes latents
  /// @param text_encoder turns the tokens of a prompt into hidden states
  /// @param tokenizer turns prompts into tokens
  /// @param unet predicts the noise; with as many channels as the latents, or with mask channels
  /// @param scheduler any scheduler with `add_noise`
  /// @throws ConfigError if a model is empty
  StableDiffusionInpaintPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                 const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                                 const Scheduler& scheduler);
  /// @param components "vae", "text_encoder", "tokenizer", "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit StableDiffusionInpaintPipeline(PipelineComponents components);

  /// Draws images.
  /// @param options the arguments
  /// @return images `[prompts * num_images_per_prompt, C, height, width]` in [0, 1], the images of one prompt
  ///   next to each other; or their latents
  /// @throws ConfigError or TensorError naming the option that does not fit the others or the models
  ImagePipelineOutput operator()(const StableDiffusionInpaintPipelineOptions& options);
};

}  // namespace diffusers
