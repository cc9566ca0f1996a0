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

/// The arguments of a `StableDiffusionImg2ImgPipeline` call, in Python's order and with Python's defaults.
struct StableDiffusionImg2ImgPipelineOptions {
  Texts prompt = {};  ///< one text or several; not together with prompt_embeds
  /// Images to start from, `[B, C, H, W]` or `[C, H, W]` floating in [0, 1]. The sides are reduced to
  /// multiples of the autoencoder's scale. Values below 0 warn and mean [-1, 1]. 4 channels mean latents. B
  /// divides the number of images to draw.
  Tensor image = {};
  double strength = 0.8;               ///< part of the steps that is run, above 0 and at most 1
  int64_t num_inference_steps = 50;    ///< number of steps for strength 1, at least 1
  std::vector<double> timesteps = {};  ///< replaces num_inference_steps; only if the scheduler takes them
  std::vector<double> sigmas = {};     ///< replaces num_inference_steps; only if the scheduler takes them
  double guidance_scale = 7.5;         ///< strength of the prompt; above 1 the UNet also runs without it
  Texts negative_prompt = {};          ///< as many as prompts; none: empty texts
  int64_t num_images_per_prompt = 1;   ///< at least 1
  double eta = 0.0;                    ///< for DDIM and TCD; other schedulers do not use it
  std::optional<Generator> generator = std::nullopt;     ///< none: the global generator of the device
  Tensor prompt_embeds = {};                             ///< `[prompts, L, D]` floating, replaces prompt
  Tensor negative_prompt_embeds = {};                    ///< shape of the prompt's, replaces negative_prompt
  EnumChoice<OutputType> output_type = OutputType::kPt;  ///< "pt": images, "latent": latents
  /// Number of the text encoder's last layers that are left out; none: 0, with the final layer norm.
  std::optional<int64_t> clip_skip = std::nullopt;
  StepEndCallback callback_on_step_end = {};  ///< called after each step with the latents
};

/// Images from texts and images (Meng et al. 2022; Python: `StableDiffusionImg2ImgPipeline`): noise is added
/// to the latents of the image, and they are denoised with the prompt. Otherwise as
/// `StableDiffusionPipeline`, whose folders it loads.
class StableDiffusionImg2ImgPipeline
    : public TypedPipeline<StableDiffusionImg2ImgPipeline, StableDiffusionBase> {
 public:
  /// The components: vae, text_encoder, tokenizer, unet, scheduler.
  static const PipelineSpec& spec();
  /// @throws ConfigError if a model is empty
  StableDiffusionImg2ImgPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                 const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                                 const Scheduler& scheduler);
  /// @param components "vae", "text_encoder", "tokenizer", "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit StableDiffusionImg2ImgPipeline(PipelineComponents components);

  /// Draws images.
  /// @return images `[prompts * num_images_per_prompt, C, H, W]` in [0, 1], the images of one prompt next to
  ///   each other; or their latents
  /// @throws ConfigError or TensorError naming the option that does not fit the others or the models
  ImagePipelineOutput operator()(const StableDiffusionImg2ImgPipelineOptions& options);
};

}  // namespace diffusers
