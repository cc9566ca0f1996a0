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
  /// Initial images `[B, C, H, W]` or `[C, H, W]`, floating in [0, 1]. Height and width are rounded down to
  /// multiples of the autoencoder's scale. Images with values below 0 are taken to be in [-1, 1], with a
  /// warning. A tensor with 4 channels is taken to be latents. B must divide the number of generated images.
  Tensor image = {};
  double strength = 0.8;               ///< fraction of the steps that are run, in (0, 1]
  int64_t num_inference_steps = 50;    ///< number of steps for strength 1, at least 1
  std::vector<double> timesteps = {};  ///< replace num_inference_steps, if the scheduler supports it
  std::vector<double> sigmas = {};     ///< replace num_inference_steps, if the scheduler supports it
  double guidance_scale = 7.5;         ///< classifier-free guidance scale; at most 1: no guidance
  Texts negative_prompt = {};          ///< one for each prompt; empty: empty texts
  int64_t num_images_per_prompt = 1;   ///< number of images for each prompt, at least 1
  double eta = 0.0;                    ///< noise of DDIM and TCD steps; other schedulers do not use it
  std::optional<Generator> generator = std::nullopt;  ///< nullopt: global generator of the device
  Tensor prompt_embeds = {};                          ///< `[prompts, L, D]` floating; replaces prompt
  Tensor negative_prompt_embeds = {};  ///< shape of the prompt's embeddings; replaces negative_prompt
  EnumChoice<OutputType> output_type = OutputType::kPt;  ///< "pt": images, "latent": latents
  /// Number of the text encoder's last layers that are skipped, 0 to num_hidden_layers. nullopt: 0. The final
  /// layer norm is always applied.
  std::optional<int64_t> clip_skip = std::nullopt;
  StepEndCallback callback_on_step_end = {};  ///< called after each step with the latents; empty: none
};

/// Generates images from texts and initial images (Meng et al. 2022; Python:
/// `StableDiffusionImg2ImgPipeline`). It adds noise to the latents of the image and denoises them with the
/// prompt. Otherwise it behaves as `StableDiffusionPipeline`, and it loads the same folders.
class StableDiffusionImg2ImgPipeline
    : public TypedPipeline<StableDiffusionImg2ImgPipeline, StableDiffusionBase> {
 public:
  /// @return the components: vae, text_encoder, tokenizer, unet and scheduler
  static const PipelineSpec& spec();
  /// Makes a pipeline from its components.
  /// @param vae the autoencoder, shared
  /// @param text_encoder the text encoder, shared
  /// @param tokenizer the tokenizer, copied
  /// @param unet the UNet, shared
  /// @param scheduler the scheduler, copied
  /// @throws ConfigError if a model is empty
  StableDiffusionImg2ImgPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                 const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                                 const Scheduler& scheduler);
  /// Makes a pipeline from named components.
  /// @param components "vae", "text_encoder", "tokenizer", "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit StableDiffusionImg2ImgPipeline(PipelineComponents components);

  /// Generates images.
  /// @param options the arguments of the call
  /// @return images `[prompts * num_images_per_prompt, C, H, W]` in [0, 1], the images of one prompt next to
  ///   each other; or their latents
  /// @throws ConfigError naming the option that is not valid
  /// @throws TensorError naming the tensor whose shape, dtype or range does not fit
  ImagePipelineOutput operator()(const StableDiffusionImg2ImgPipelineOptions& options);
};

}  // namespace diffusers
